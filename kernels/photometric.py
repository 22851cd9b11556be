"""Photometric loss at vertices: a model's colours against images where its vertices are projected."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .common.backend import Backend, choose_backend
from .common.checks import FLOATS, check_intrinsics, check_tensor
from .common.custom_op import register
from .common.projection import image_offset

KINDS: dict[str, tuple[int, float]] = {
    "squared": (2, 1.0),
    "l1": (1, 1e-7),
    "charbonnier": (1, 0.03),
    "geman": (-2, 0.1),
}
"""Shape alpha and scale s, in linear colour units, of the cost of a difference d between colours. The costs are members
of one family up to constant factors (Barron, A General and Adaptive Robust Loss Function, CVPR 2019):

  2: d^2 / s, the squared norm;
  1: sqrt(d^2 + s^2) - s, the norm beyond s (Charbonnier et al., Two Deterministic Half-Quadratic Regularization
     Algorithms for Computed Imaging, ICIP 1994);
 -2: s d^2 / (d^2 + s^2), which ends at s (Geman and McClure, Statistical Methods for Tomographic Image Reconstruction,
     Bulletin of the International Statistical Institute, 1987).
"""


def sample_bilinear(
    images: Tensor,  # [F, C, H, W]
    uv: Tensor,  # [F, V, 2] px, pixel centres at +0.5
) -> Tensor:  # [F, V, C]
    """Samples images bilinearly at pixel positions; positions outside take the border's colour, NaN gives NaN.

    Both are float32 or float64. Raises ValueError naming the argument of a wrong shape, dtype or device.
    """
    check_tensor("images", images, ("F", "C", "H", "W"), contiguous=False)
    if 0 in images.shape[2:]:
        raise ValueError(f"images must hold at least one pixel, not {list(images.shape)}")
    check_tensor("uv", uv, (len(images), "V", 2), (images.dtype,), ("images", images), contiguous=False)
    return torch.where(_unknown(uv)[..., None], torch.nan, _sample(images, uv).transpose(1, 2))


def photometric(
    images: Tensor,  # [F, 3, H, W] linear RGB
    vertices: Tensor,  # [F, V, 3] camera space, mm
    Ks: Tensor,  # [F, 3, 3]
    colors: Tensor,  # [F, V, 3] linear RGB, the shaded model
    weights: Tensor | None = None,  # [F, V], 0 where the vertex is not visible
    kind: str = "squared",
    backend: Backend | None = None,
) -> tuple[Tensor, Tensor]:  # [F], [F, V, 3]
    """Computes the weighted mean over vertices of rho(I(u_i) - c_i), and the image's colours I(u_i) at the vertices.

    u = (fx X + s Y) / Z + cx, v = fy Y / Z + cy. I is sampled bilinearly; positions beyond the outermost pixel centres
    take the border's colour and have no gradient. rho is one of KINDS, which has the sources: the squared norm d^2
    ("squared", the paper's photometric term, section 5), the norm ("l1"), sqrt(d^2 + 0.03^2) - 0.03 ("charbonnier"),
    which grows linearly beyond a difference of 0.03 and so resists occluders and highlights, or
    0.1 d^2 / (d^2 + 0.1^2) ("geman"), which ends at 0.1, so that occluders do not pull at all. The sum of the weights
    counts as at least 1, so a frame without visible vertices gives 0. Gradients go to vertices and colours; images,
    cameras and weights are constants.

    A vertex of weight 0 adds exactly nothing to values and gradients, whatever its numbers are, NaN included. A vertex
    with Z <= 0 has no image: give it weight 0.

    Args:
        images: float32 or float64 (backend "torch"), like every other tensor here.
        vertices: of the mesh, one set a frame.
        Ks: intrinsics in pixels.
        colors: compared with the images.
        weights: at least 0; None counts every vertex once.
        kind: "squared", "l1", "charbonnier" or "geman".
        backend: "torch" or "triton"; by the device where None.

    Returns:
        Loss of each frame, and the sampled colours: a constant, without meaning where the weight is 0.

    Raises:
        ValueError: wrong shape, dtype, device or memory layout, naming the argument; an unknown kind or backend.
    """
    check_tensor("vertices", vertices, ("F", "V", 3), FLOATS)
    frames, count, _ = vertices.shape
    dtype, like = (vertices.dtype,), ("vertices", vertices)
    check_tensor("images", images, (frames, 3, "H", "W"), dtype, like)
    if 0 in images.shape[2:]:
        raise ValueError(f"images must hold at least one pixel, not {list(images.shape)}")
    check_intrinsics(Ks, frames, dtype, like)
    check_tensor("colors", colors, (frames, count, 3), dtype, like)
    if weights is not None:
        check_tensor("weights", weights, (frames, count), dtype, like)
    check_kind(kind)
    backend = choose_backend(backend, vertices)
    needed = (torch.is_grad_enabled() and x.requires_grad for x in (vertices, colors))
    return _photometric(images, vertices, Ks, colors, weights, kind, *needed, backend)[:2]


def _forward(
    images: Tensor,  # [F, 3, H, W]
    vertices: Tensor,  # [F, V, 3]
    Ks: Tensor,  # [F, 3, 3]
    colors: Tensor,  # [F, V, 3]
    weights: Tensor | None,  # [F, V]
    kind: str,
    vertices_needed: bool,
    colors_needed: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # [F], [F, V, 3], [F, V, 3] or [0] twice, [F] or [0]
    """Computes loss and sampled colours; also returns the derivatives of the costs that are needed, and their divisor.

    In plain torch one pass over the vertices that count, N in all, in planes [3, N]; it divides at once.
    """
    if backend == "triton":
        from .photometric_triton import photometric_triton  # not before: Triton is not on every platform

        needed = vertices_needed, colors_needed
        return photometric_triton(images, vertices, Ks, colors, weights, *KINDS[kind], *needed)
    frames, count, _ = vertices.shape
    weights = vertices.new_ones(frames, count) if weights is None else weights
    at = weights.view(-1).nonzero().view(-1)
    frame = at // max(count, 1)
    places = 3 * at + torch.arange(3, device=at.device)[:, None]  # of the numbers of a vertex
    x, y, z = _pick(vertices, places)
    fx, skew, cx, _, fy, cy = camera = Ks[:, :2].flatten(1).T.index_select(1, frame).unbind()
    inverse = 1 / z
    u, v = image_offset(camera, x, y)
    u, v = u * inverse + cx, v * inverse + cy
    sampled, along_u, along_v = _sample_with_slopes(images, frame, u, v)
    difference = sampled - _pick(colors, places)
    cost, slope = cost_and_slope(difference.square().sum(0), kind)
    share = (weights / weights.sum(1, keepdim=True).clamp(min=1.0)).view(-1).index_select(0, at)
    loss = _put(cost * share, at, weights.shape).sum(1)
    to_sample, to_vertices, to_colors = 2 * slope * share * difference, loss.new_empty(0), loss.new_empty(0)
    if vertices_needed:
        to_u, to_v = (to_sample * along_u).sum(0), (to_sample * along_v).sum(0)
        to_x, to_y = to_u * fx * inverse, (to_u * skew + to_v * fy) * inverse
        to_vertices = _put(torch.stack([to_x, to_y, -(to_x * x + to_y * y) * inverse]), places, vertices.shape)
    if colors_needed:
        to_colors = _put(-to_sample, places, colors.shape)
    return loss, _put(sampled, places, colors.shape), to_vertices, to_colors, loss.new_empty(0)


def _backward(
    wanted: list[bool],
    grad_loss: Tensor,  # [F]
    to_vertices: Tensor,  # [F, V, 3] or [0]
    to_colors: Tensor,  # [F, V, 3] or [0]
    total: Tensor,  # [F] or [0]
    backend: str,
) -> list[Tensor]:  # as vertices, as colors
    """Scales the derivatives that the forward pass left; where they are 0, also a gradient of NaN gives 0."""
    parts = [part for part, needed in zip((to_vertices, to_colors), wanted, strict=True) if needed]
    if backend == "triton":
        from .photometric_triton import scale_local

        return scale_local(parts, total, grad_loss)
    return [torch.where(part == 0, part, part * grad_loss[:, None, None]) for part in parts]


def _fake(
    images: Tensor,
    vertices: Tensor,
    Ks: Tensor,
    colors: Tensor,
    weights: Tensor | None,
    kind: str,
    vertices_needed: bool,
    colors_needed: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    frames = len(vertices)
    return (
        vertices.new_empty(frames),
        torch.empty_like(vertices),
        torch.empty_like(vertices) if vertices_needed else vertices.new_empty(0),
        torch.empty_like(colors) if colors_needed else colors.new_empty(0),
        vertices.new_empty(frames if backend == "triton" else 0),
    )


def _fake_backward(
    wanted: list[bool], grad_loss: Tensor, to_vertices: Tensor, to_colors: Tensor, total: Tensor, backend: str
) -> list[Tensor]:
    parts = zip((to_vertices, to_colors), wanted, strict=True)
    return [torch.empty_like(part) for part, needed in parts if needed]


def _pick(values: Tensor, places: Tensor) -> Tensor:
    """values.view(-1)[places], several times as fast."""
    return values.view(-1).index_select(0, places.view(-1)).view(places.shape)


def _put(values: Tensor, places: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Zeros of a shape, with the values at those places."""
    return values.new_zeros(math.prod(shape)).index_copy_(0, places.view(-1), values.view(-1)).view(shape)


def _sample_with_slopes(
    images: Tensor,  # [F, 3, H, W]
    frame: Tensor,  # [N] int64
    u: Tensor,  # [N] px
    v: Tensor,  # [N] px
) -> tuple[Tensor, Tensor, Tensor]:  # [3, N] each
    """Samples bilinearly, and finds how samples change with u and v: not at all beyond the outermost pixel centres."""
    channels, height, width = images.shape[1:]
    (left, right, across, free_u), (top, bottom, down, free_v) = _taps(u, width), _taps(v, height)
    line = channels * height * frame
    upper, lower = (line + top) * width, (line + bottom) * width
    planes = [images.view(-1)[channel * height * width :] for channel in range(channels)]  # from one channel on
    pixels = (upper + left, upper + right, lower + left, lower + right)
    a, b, c, d = (torch.stack([plane.index_select(0, pixel) for plane in planes]) for pixel in pixels)
    above, below = torch.lerp(a, b, across), torch.lerp(c, d, across)
    along_u = torch.lerp(b - a, d - c, down) * free_u
    return torch.lerp(above, below, down), along_u, (below - above) * free_v


def _taps(position: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The two pixels around a position along one axis, the share of the second, and whether the position is inside."""
    position = position - 0.5
    kept = position.clamp(0, size - 1)
    first = kept.nan_to_num(0.0).long().clamp_(max=max(size - 2, 0))  # NaN goes on through the share
    return first, (first + 1).clamp_(max=size - 1), kept - first, (position > 0) & (position < size - 1)


def check_kind(kind: str) -> None:
    """Raises ValueError unless `kind` is one of KINDS."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {tuple(KINDS)}, not {kind!r}")


def _sample(
    images: Tensor,  # [F, C, H, W]
    uv: Tensor,  # [F, V, 2]
) -> Tensor:  # [F, C, V]
    """`sample_bilinear` with any colour where the position is NaN, whose backward pass would read wild addresses."""
    u, v = uv.nan_to_num(0.0, torch.inf, -torch.inf).unbind(-1)
    grid = torch.stack([u * (2 / images.shape[3]) - 1, v * (2 / images.shape[2]) - 1], -1)
    return F.grid_sample(images, grid[:, None], padding_mode="border", align_corners=False)[:, :, 0]


def _unknown(
    uv: Tensor,  # [F, V, 2]
) -> Tensor:  # [F, V]
    u, v = uv.detach().isnan().unbind(-1)
    return u | v


def cost_and_slope(squared: Tensor, kind: str) -> tuple[Tensor, Tensor | float]:
    """Computes the robust cost, and its derivative by the squared difference."""
    alpha, scale = KINDS[kind]
    if alpha == 2:
        return squared / scale, 1 / scale
    if alpha == 1:
        root = torch.sqrt(squared + scale**2)
        return squared / (root + scale), 0.5 / root  # root - scale without cancellation
    near = scale**2 / (squared + scale**2)  # 1 where the colours agree, 0 far off
    return squared * near / scale, near * near / scale


_photometric = register(
    "photometric",
    _forward,
    _backward,
    _fake,
    outputs=("loss", "sampled", "to_vertices", "to_colors", "total"),
    gradients_to=("vertices", "colors"),
    fake_backward=_fake_backward,
)
