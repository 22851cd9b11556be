"""The calls of `nvdiffrast.torch` on CPUs and on GPUs of NVIDIA and AMD: `import fmlfast.nvdiffrast as dr`.

Written from nvdiffrast's public documentation: names, order and defaults of arguments, shapes, dtypes and gradients are
as it says. Everything runs where the tensors are, gives the same bits on every run, and waits for no GPU. In addition
tensors may have any strides and triangles be int64; on a CPU everything may be float64. docs/nvdiffrast.md says what
differs.

Shapes: N pictures, V vertices, T triangles; without N ("range mode") all pictures share one buffer of vertices, and
`ranges` says which triangles each of them shows. Row 0 of a picture is at y = -w, row 0 of a texture at t = 0.
"""

from .antialiasing import antialias, antialias_construct_topology_hash
from .interpolation import interpolate
from .rasterization import DepthPeeler, RasterizeCudaContext, RasterizeGLContext, rasterize
from .texturing import texture, texture_construct_mip

__all__ = [
    "DepthPeeler",
    "RasterizeCudaContext",
    "RasterizeGLContext",
    "antialias",
    "antialias_construct_topology_hash",
    "get_log_level",
    "interpolate",
    "rasterize",
    "set_log_level",
    "texture",
    "texture_construct_mip",
]

_log_level = 1


def get_log_level() -> int:
    """Tells the log level; there are no messages."""
    return _log_level


def set_log_level(level: int) -> None:
    """Sets the log level: 0 info, 1 warning, 2 error, 3 fatal."""
    global _log_level
    if level not in (0, 1, 2, 3):
        raise ValueError(f"level must be 0, 1, 2 or 3, not {level!r}")
    _log_level = level
