"""Defines `fmlfast view`."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


def view(
    folders: Annotated[tuple[Path, ...], Positional, arg(metavar="[RUN|TRACK|RESULT [RESULT]]")] = (),
    /,
    host: str = "127.0.0.1",
    port: int = 8080,
) -> None:
    """Shows a model's people, a tracked video, a reconstructed person or two of them side by side, in a browser.

    A model has sliders for shape, skin, expression, light and turn; a video its player; a person the photos behind the
    face; two persons a map of the distance between their shapes. Ctrl-C ends it.

    Args:
        folders: Run folder of a model, folder of `fmlfast track`, or one or two results of `fmlfast reconstruct`; by
            default the shipped model.
        host: Address to serve at; 0.0.0.0 lets other computers in, and whoever reaches it sees the faces.
        port: Port to serve at; the next free one where it is taken.
    """
    from fmlfast.visualization.viewer.open import open_view

    stage = open_view(folders, host, port)
    print(f"open {stage.address} in a browser; Ctrl-C ends it", flush=True)
    stage.wait()
