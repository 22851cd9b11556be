"""Defines `fmlfast track`."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


def track(
    video: Annotated[Path, Positional, arg(metavar="VIDEO")],
    /,
    checkpoint: Path | None = None,
    out: Path | None = None,
    refine: int = 10,
    texture: int = 1024,
    seconds: float | None = None,
    camera: Path | None = None,
    people: int | None = None,
) -> None:
    """Tracks the people of a video: overlay.mp4 with sound, moving GLB, ARKit weights as CSV, parameters.

    The same command goes on where an interrupted one was.

    Args:
        video: Any format that PyAV reads.
        checkpoint: Run folder of a trained model; by default the model that comes with fmlfast.
        out: New folder for the results; by default out/NAME.
        refine: Steps of refinement of each frame on its pixels; 0 fits points only and is faster.
        texture: Side of the texture that is baked from the best frames, a power of two, pixels; 0 for none.
        seconds: Stop after so many seconds of the video.
        camera: JSON file with the intrinsics of a calibrated camera; else the focal length is estimated.
        people: Track so many people at most, those seen most.
    """
    from fmlfast.reconstruction.track.camera_file import read_camera
    from fmlfast.reconstruction.track.run import track as run

    out = out or Path("out") / video.stem
    K = None if camera is None else read_camera(camera, video)
    found = run(
        video, out, checkpoint, refine=refine, texture=texture, seconds=seconds, camera=K, people=people, progress=True
    )
    print(f"{out}: overlay.mp4, comparison.mp4")
    for number, person in enumerate(found):
        track = person.track
        print(
            f"  person-{number}: {len(track.frame)} frames, {float(track.time[0]):.1f} to {float(track.time[-1]):.1f} s"
        )
