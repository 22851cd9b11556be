"""Interpolation of vertex attributes by nvdiffrast's call."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from fmlfast.kernels.common.checks import check_tensor
from fmlfast.kernels.interpolate import interpolate as _interpolate
from fmlfast.kernels.interpolate_derivatives import interpolate_derivatives

from .arguments import check_rast, checked_triangles, fragments_of


def interpolate(
    attr: Tensor,  # [N or 1, V, A], [V, A] for all pictures
    rast: Tensor,  # [N, H, W, 4]
    tri: Tensor,  # [T, 3]
    rast_db: Tensor | None = None,  # [N, H, W, 4]
    diff_attrs: Sequence[int] | Literal["all"] | None = None,
) -> tuple[Tensor, Tensor]:  # [N, H, W, A], [N, H, W, 2 * n]
    """Interpolates vertex attributes, with gradients to them, to u and v of `rast`, and to `rast_db`.

    Args:
        attr: [N, V, A] float32, [1, V, A] shared by all pictures, or [V, A] in range mode.
        rast: first result of `rasterize`.
        tri: [T, 3] int32, as many triangles as were rasterised; they may have vertices of their own.
        rast_db: second result of `rasterize`.
        diff_attrs: n different attributes to differentiate, or "all" of them.

    Returns:
        Attributes, 0 where nothing is seen. And their derivatives per pixel, dA/dX, dA/dY of each of `diff_attrs`, or
        [N, H, W, 0] without `rast_db` or `diff_attrs`.
    """
    attr = attr[None] if isinstance(attr, Tensor) and attr.ndim == 2 else attr
    check_tensor("attr", attr, ("N or 1", "V", "A"), contiguous=False)
    frames = check_rast(rast, ("attr", attr))
    if len(attr) not in (1, frames):
        raise ValueError(f"attr must be those of {frames} pictures or of 1, as rast has {frames}, not {len(attr)}")
    tri = checked_triangles(tri, attr.shape[1], ("attr", attr))
    attr = attr.contiguous()
    derivatives = None
    if rast_db is not None and diff_attrs is not None:
        if isinstance(rast_db, Tensor) and rast_db.shape[-1:] == (0,):
            raise ValueError("rast_db is empty: rasterize by RasterizeGLContext(output_db=True)")
        check_tensor("rast_db", rast_db, tuple(rast.shape), like=("attr", attr), contiguous=False)
        derivatives = rast_db.contiguous()
    fragments = fragments_of(rast, tri, derivatives)
    image = _interpolate(attr, tri, fragments)
    if derivatives is None or diff_attrs is None:
        return image, image.new_empty(*image.shape[:3], 0)
    return image, interpolate_derivatives(attr, tri, fragments, _channels(diff_attrs, attr.shape[2]))


def _channels(diff_attrs: Sequence[int] | Literal["all"], count: int) -> list[int] | None:
    if diff_attrs == "all":
        return None
    chosen = [int(a) for a in diff_attrs]
    if any(not 0 <= a < count for a in chosen) or len(set(chosen)) < len(chosen):
        raise ValueError(f"diff_attrs must be 'all' or different indices from 0 to {count - 1}, not {diff_attrs!r}")
    return chosen
