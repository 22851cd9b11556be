"""Defines `fmlfast reconstruct`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from fmlfast.reconstruction.result import Reconstruction

LISTED = 12  # photos


def reconstruct(
    images: Annotated[tuple[Path, ...], Positional, arg(metavar="IMAGE...")],
    /,
    checkpoint: Path | None = None,
    out: Path | None = None,
    face: Annotated[int | Literal["all"] | None, arg(metavar="N|all")] = None,
    refine: int = 50,
    frames: int = 8,
    texture: int = 1024,
    mesh: bool = True,
    topology: Literal["own", "fine"] | None = None,
) -> None:
    """Reconstructs one person's head from photos and videos, jointly: textured GLB to animate, pictures, parameters.

    `fmlfast export` and `fmlfast.Reconstruction.load` read the folder again.

    Args:
        images: Photos, videos and folders of photos of one person; any format that Pillow or PyAV reads.
        checkpoint: Run folder of a trained model; by default the model that comes with fmlfast.
        out: New folder for the results; by default out/NAME, after the first photo.
        face: Face to take where a photo shows several, from 0 at the left; all: each one, into OUT/face-0, ...
        refine: Steps of test-time refinement on these photos; 0 takes the encoder's prediction.
        frames: Most frames to take of a video: the best one of each of so many equal time intervals.
        texture: Side of the texture that is baked from the photos, a power of two, pixels; 0 for none.
        mesh: Write head.glb, head.obj and a mesh of each photo.
        topology: own: the template's own vertices; fine: subdivided. By default own for a head of yours.
    """
    from fmlfast.common.locks import lock_new_folder
    from fmlfast.reconstruction.pipeline import reconstruct as run
    from fmlfast.reconstruction.pipeline import reconstruct_everyone

    if not images:
        raise ValueError("no images given; name at least one photo or video of the person")
    if out is None:
        out = Path("out") / images[0].resolve().stem
    if face == "all" and len(images) != 1:
        raise ValueError(f"--face all takes one photo, not {len(images)}; choose a face of each with --face N")
    with lock_new_folder(out):  # before the work, not after it
        if face == "all":
            everyone = reconstruct_everyone(images[0], checkpoint, refine=refine, texture=texture, topology=topology)
            found = ((out / f"face-{number}", result) for number, result in enumerate(everyone))
        else:
            options = {"face": face, "refine": refine, "frames": frames, "texture": texture, "topology": topology}
            found = [(out, run(images, checkpoint, **options))]
        for folder, result in found:
            result.save(folder, meshes=mesh)
            _report(folder, result, refine > 0)


def _report(out: Path, result: "Reconstruction", refined: bool) -> None:
    count, errors = len(result.names), result.landmark_errors
    print(f"{out}: {count} photo{'s' * (count > 1)}, mesh of {len(result.neutral)} vertices")
    print("distance to the detected landmarks, % of the outer-eye distance:")
    rows = list(zip(result.names, result.network_landmark_errors, errors, strict=True))
    for name, before, after in rows[:LISTED]:
        print(f"  {name}  {before:.2f}" + f", refined {after:.2f}" * refined)
    if count > LISTED:
        print(f"  ... {count} in all: mean {sum(errors) / count:.2f}, largest {max(errors):.2f}; see parameters.json")
