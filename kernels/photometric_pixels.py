"""Photometric loss pixel by pixel: pictures drawn by a renderer against images."""

import torch
from torch import Tensor

from .common.backend import Backend, choose_backend
from .common.checks import FLOATS, check_tensor
from .common.custom_op import register
from .photometric import KINDS, check_kind, cost_and_slope


def photometric_pixels(
    rendered: Tensor,  # [F, H, W, C]
    images: Tensor,  # [F, H, W, C]
    weights: Tensor | None = None,  # [F, H, W], 0 where the pixel does not count
    kind: str = "squared",
    backend: Backend | None = None,
) -> Tensor:  # [F]
    """Computes the weighted mean over pixels of rho(rendered - images), with the rho and the weights of `photometric`.

    The gradient goes to the rendered pictures; images and weights are constants. A pixel of weight 0 adds exactly
    nothing, whatever the pictures hold there, NaN included.

    Args:
        rendered: float32 or float64 (backend "torch"), like every other tensor here, with any number of channels.
        images: compared with them.
        weights: at least 0, such as a mask; None counts every pixel once.
        kind: "squared", "l1", "charbonnier" or "geman".
        backend: "torch" or "triton"; by the device where None.

    Returns:
        Loss of each frame.

    Raises:
        ValueError: wrong shape, dtype, device or memory layout, naming the argument; an unknown kind or backend.
    """
    check_tensor("rendered", rendered, ("F", "H", "W", "C"), FLOATS)
    dtype, like = (rendered.dtype,), ("rendered", rendered)
    check_tensor("images", images, tuple(rendered.shape), dtype, like)
    if weights is not None:
        check_tensor("weights", weights, tuple(rendered.shape[:3]), dtype, like)
    check_kind(kind)
    backend = choose_backend(backend, rendered)
    needed = torch.is_grad_enabled() and rendered.requires_grad
    return _photometric_pixels(rendered, images, weights, kind, needed, backend)[0]


def _forward(
    rendered: Tensor,  # [F, H, W, C]
    images: Tensor,  # [F, H, W, C]
    weights: Tensor | None,  # [F, H, W]
    kind: str,
    needed: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:  # [F], [F, H, W, C] or [0], [F]
    """Computes the loss; also returns what a gradient needs, if one does, and what the sum of the costs was divided by.

    That is the derivative of the weighted costs from the kernel, and the difference in plain torch.
    """
    if backend == "triton":
        from .photometric_pixels_triton import photometric_pixels_triton

        return photometric_pixels_triton(rendered, images, weights, *KINDS[kind], needed)
    difference = rendered - images
    if weights is not None:
        difference = difference.masked_fill((weights == 0)[..., None], 0.0)
    cost = cost_and_slope((difference * difference).sum(-1), kind)[0].flatten(1)
    if weights is None:
        total = cost.new_full((len(cost),), max(cost.shape[1], 1))
    else:
        weights = weights.flatten(1)
        cost, total = cost * weights, weights.sum(1).clamp(min=1.0)
    return cost.sum(1) / total, difference if needed else difference.new_empty(0), total


def _backward(
    wanted: list[bool],
    grad_loss: Tensor,  # [F]
    weights: Tensor | None,  # [F, H, W]
    local: Tensor,  # [F, H, W, C]
    total: Tensor,  # [F]
    kind: str,
    backend: str,
) -> list[Tensor]:  # as rendered
    """Differentiates by what was rendered; the slope is not left to autograd, which loses digits of it."""
    if backend == "triton":
        from .photometric_triton import scale_local

        return scale_local([local], total, grad_loss)
    share = (grad_loss / total)[:, None, None]
    if weights is not None:
        share = share * weights
    half = (share * cost_and_slope((local * local).sum(-1), kind)[1])[..., None] * local
    gradient = half + half
    return [gradient if weights is None else gradient.masked_fill_((weights == 0)[..., None], 0.0)]


def _fake(
    rendered: Tensor, images: Tensor, weights: Tensor | None, kind: str, needed: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    frames = len(rendered)
    return (
        rendered.new_empty(frames),
        torch.empty_like(rendered) if needed else rendered.new_empty(0),
        rendered.new_empty(frames),
    )


def _fake_backward(
    wanted: list[bool],
    grad_loss: Tensor,
    weights: Tensor | None,
    local: Tensor,
    total: Tensor,
    kind: str,
    backend: str,
) -> list[Tensor]:
    return [torch.empty_like(local)]


_photometric_pixels = register(
    "photometric_pixels",
    _forward,
    _backward,
    _fake,
    outputs=("loss", "local", "total"),
    gradients_to=("rendered",),
    fake_backward=_fake_backward,
)
