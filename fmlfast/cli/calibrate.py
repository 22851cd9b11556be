"""Defines `fmlfast calibrate`."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg


def calibrate(
    folder: Annotated[Path, Positional, arg(metavar="FOLDER")],
    /,
    unit: Literal["mm", "cm", "dm", "m"],
    views: int = 200,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Ties the face detector's points to your own head: renders it, looks at it, writes surface.txt into its folder.

    Args:
        folder: Template folder with neutral.obj, expressions and landmarks.txt: docs/own-head.md.
        unit: Length unit of the OBJ files.
        views: Number of random pictures of the head.
        seed: Seed of the pictures.
        overwrite: Replace an existing surface.txt.
    """
    from fmlfast.data.synthetic.calibrate import calibrate as run

    done = run(folder, unit, views=views, seed=seed, overwrite=overwrite)
    print(f"{done.seen} of {done.views} views showed a face; the points scatter by {done.scatter:.2f} mm (median)")
    print(f"{done.path}: written")
