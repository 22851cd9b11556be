"""Attributes of the vertices, blended over the pixels."""

from torch import Tensor

from ._checks import check_triangles
from .rasterize import Fragments


def interpolate(
    attributes: Tensor,  # [F or 1, V, C]
    triangles: Tensor,  # [T, 3]
    fragments: Fragments,  # [F, H, W]
) -> Tensor:  # [F, H, W, C]
    """Perspective-correct blend of vertex attributes at every pixel, with gradients to the attributes.

    Args:
        attributes: [F, V, C] floating point, or [1, V, C] to share one set among all frames.
        triangles: [T, 3] int32 or int64, those that were rasterised.
        fragments: result of `rasterize` for F frames.

    Returns:
        [F, H, W, C] of the attributes' dtype, 0 where no triangle is seen.

    Raises:
        ValueError: wrong shape, dtype or device, naming the argument.
    """
    frames, height, width = fragments.triangle_id.shape
    _check(attributes, triangles, fragments)
    _, vertices, channels = attributes.shape
    ids = fragments.triangle_id.reshape(-1)
    covered = (ids >= 0).nonzero().view(-1)
    corners = triangles.long()[ids.index_select(0, covered).long()]  # [N, 3]
    if len(attributes) > 1:
        corners = corners + (covered // (height * width) * vertices)[:, None]
    weights = fragments.barycentrics.reshape(-1, 3).index_select(0, covered).to(attributes.dtype)
    # Indexing, not index_select: its backward sums in a fixed order on GPUs too.
    blended = (attributes.reshape(-1, channels)[corners] * weights[..., None]).sum(1)
    image = blended.new_zeros(frames * height * width, channels).index_copy(0, covered, blended)
    return image.view(frames, height, width, channels)


def _check(attributes: Tensor, triangles: Tensor, fragments: Fragments) -> None:
    frames = len(fragments.triangle_id)
    if attributes.ndim != 3 or len(attributes) not in (1, frames):
        raise ValueError(f"attributes must be [{frames} or 1, V, C] for {frames} frames, not {tuple(attributes.shape)}")
    if not attributes.is_floating_point():
        raise ValueError(f"attributes must be floating point, not {attributes.dtype}")
    if fragments.triangle_id.device != attributes.device:
        raise ValueError(f"fragments are on {fragments.triangle_id.device}, attributes on {attributes.device}")
    check_triangles(triangles, attributes.shape[1], ("attributes", attributes))
    if fragments.triangle_id.numel() and int(fragments.triangle_id.max()) >= len(triangles):
        raise ValueError(f"fragments hold a triangle beyond the {len(triangles)} of triangles: rasterise the same ones")
