"""Defines `fmlfast export`."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg


def export(
    result: Annotated[Path, Positional, arg(metavar="RESULT")],
    /,
    format: tuple[Literal["glb", "obj", "ply", "usdz"], ...] = ("glb",),
    unlit: bool = False,
    out: Path | None = None,
) -> None:
    """Writes the head of a saved reconstruction as files that other programs open.

    GLB and USDZ can be animated: named expressions, eyes that turn, teeth and head as nodes of their own. OBJ and PLY
    hold the head without expression.

    Args:
        result: Folder that `fmlfast reconstruct` wrote.
        format: One or several of glb, obj, ply and usdz; usdz needs the extra `usd`.
        unlit: Show colours as they are, without the light of the program that shows them.
        out: Folder for head.glb, head.obj, ...; RESULT/export when not given. Files of these names are replaced.
    """
    from fmlfast.common.locks import check_writable
    from fmlfast.reconstruction.head_files import write_head
    from fmlfast.reconstruction.result import Reconstruction

    if not format:
        raise ValueError("no format given; name one or several after --format: glb obj ply usdz")
    folder = out or result / "export"
    check_writable(folder / "head")  # before the work
    head = Reconstruction.load(result).head()
    for suffix in format:
        path = folder / f"head.{suffix}"
        write_head(path, head, unlit=unlit)
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
