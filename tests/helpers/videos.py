"""Videos written for tests, which are skipped where PyAV is missing."""

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
    **options: str,
) -> Path:
    """Writes uint8 [H, W, 3] frames; ffv1 in .mkv keeps them all but exactly. turned: degrees, see display matrix."""
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv444p" if codec == "ffv1" else "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        if turned:
            stream.set_display_rotation(turned)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def smooth(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A random picture that survives compression and rescaling."""
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
