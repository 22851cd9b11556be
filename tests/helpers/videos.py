"""Videos written for tests, which are skipped where PyAV is missing."""

import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def write_video(
    path: Path,
    frames: list[np.ndarray],
    rate: int = 12,
    codec: str = "ffv1",
    aspect: Fraction = Fraction(1),
    turned: int = 0,
    tags: tuple[int, int, int] | None = None,
    **options: str,
) -> Path:
    """Writes uint8 [H, W, 3] frames; ffv1 in .mkv keeps them all but exactly. turned: degrees, see display matrix.

    tags: primaries, transfer characteristics and matrix of ITU-T H.273; such files have 10 bits. Frames hold the codes.
    """
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv444p10le" if tags else "yuv444p" if codec == "ffv1" else "yuv420p"
        if tags:
            context = stream.codec_context
            context.color_primaries, context.color_trc, context.colorspace = tags
            context.color_range = 1  # of television
        stream.codec_context.sample_aspect_ratio = aspect
        if turned:
            stream.set_display_rotation(turned)
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            if tags:
                picture = picture.reformat(format=stream.pix_fmt, dst_colorspace=tags[2], dst_color_range=1)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def smooth(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A random picture that survives compression and rescaling."""
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def set_display_matrix(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Overwrites the first four numbers of an MP4's display matrix: x' = a x + c y, y' = b x + d y."""
    data = bytearray(path.read_bytes())
    at = data.find(b"tkhd") + 4
    at += (36 if data[at] == 1 else 24) + 16  # version 1 has longer times
    struct.pack_into(">9i", data, at, a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
