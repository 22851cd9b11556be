"""Defines `fmlfast track`."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


def track(
    videos: Annotated[tuple[Path, ...], Positional, arg(metavar="VIDEO...")],
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
        videos: A video of any format that PyAV reads; or several, synchronous ones of one person, with --camera.
        checkpoint: Run folder of a trained model; by default the model that comes with fmlfast.
        out: New folder for the results; by default out/NAME.
        refine: Steps of refinement of each frame on its pixels; 0 fits points only and is faster. Of one video only.
        texture: Side of the texture that is baked from the best frames, a power of two, pixels; 0 for none.
        seconds: Stop after so many seconds of the video.
        camera: JSON file of the calibrated camera, or of all cameras; else the focal length is estimated.
        people: Track so many people at most, those seen most. Of one video only.
    """
    from fmlfast.reconstruction.track.camera_file import read_camera, read_rig
    from fmlfast.reconstruction.track.run import track as run
    from fmlfast.reconstruction.track.views import track_views

    if not videos:
        raise ValueError("no video given; name at least one")
    first = videos[0]
    out = out or Path("out") / first.stem
    if len(videos) > 1:
        if camera is None:
            raise ValueError(
                "several videos need --camera, a JSON file with the place of each camera; see docs/tracking.md"
            )
        rig = read_rig(camera, videos)
        found = track_views(videos, rig, out, checkpoint, texture=texture, seconds=seconds, progress=True)
        names = [f"view-{number}/person-0" for number in range(len(found))]
    else:
        K = None if camera is None else read_camera(camera, first)
        found = run(
            first,
            out,
            checkpoint,
            refine=refine,
            texture=texture,
            seconds=seconds,
            camera=K,
            people=people,
            progress=True,
        )
        names = [f"person-{number}" for number in range(len(found))]
    for name, person in zip(names, found, strict=True):
        times = person.track.time
        print(f"{out / name}: {len(times)} frames, {float(times[0]):.1f} to {float(times[-1]):.1f} s")
