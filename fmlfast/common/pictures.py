"""Opens pictures that may be damaged or hostile."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from fmlfast.common.given_files import check_file

MOST_PICTURE = 2**30  # bytes of a picture's file


@contextmanager
def open_picture(path: str | Path) -> Iterator[Image.Image]:
    """Opens a picture by Pillow, without its warning of large ones, which phones take.

    The whole file is in memory: a damaged one may tell that billions of bytes follow, for which reading makes room.
    Raises what Pillow and `check_file` raise, and ValueError for a file of over 1 GB.
    """
    path = check_file(path)
    if path.stat().st_size > MOST_PICTURE:
        raise ValueError(f"{path}: over {MOST_PICTURE >> 20} MB; save a smaller copy of it")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(path.read_bytes())) as opened:
            yield opened
