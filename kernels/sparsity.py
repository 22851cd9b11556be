"""Reflectance sparsity: skin of one chromaticity in the image has one reflectance, and what varies is light.

The weighted l_p prior of the paper's section 5; torch reference and public operations.
"""

import torch
from torch import Tensor

from .common.backend import Backend, choose_backend
from .common.cache import TensorCache
from .common.checks import check_indices, check_tensor
from .common.custom_op import register
from .common.gather import sum_rows
from .common.topology import grouped

TINY = 1e-6  # added to squared differences, so that the gradient stays finite where they vanish


def chromaticity(
    colors: Tensor,  # [B, M, V, 3]
    weights: Tensor,  # [B, M, V]
    backend: Backend | None = None,
) -> tuple[Tensor, Tensor]:  # [B, V, 2], [B, V] bool
    """Computes the image's chromaticity at every vertex over the frames that see it. No gradient.

    That is r / (r + g + b) and g / (r + g + b).

    Args:
        colors: [B, M, V, 3] floating point, linear RGB of M frames at the vertices.
        weights: [B, M, V] of the same dtype, above 0 where the frame sees the vertex.
        backend: "torch" or "triton"; by default "triton" on a GPU, "torch" on the CPU.

    Returns:
        Chromaticity [B, V, 2], and which vertices any frame sees [B, V] bool.

    Raises:
        ValueError: wrong shape, dtype or device, naming the argument.
    """
    check_tensor("colors", colors, ("B", "M", "V", 3))
    check_tensor("weights", weights, tuple(colors.shape[:3]), (colors.dtype,), ("colors", colors))
    colors, weights = colors.detach(), weights.detach()
    if choose_backend(backend, colors) == "triton":
        from .sparsity_triton import chromaticity_triton  # not before: Triton is not on every platform

        return chromaticity_triton(colors, weights)
    seen = weights > 0
    total = torch.where(seen[..., None], colors, 0.0).sum(1)
    return total[..., :2] / total.sum(-1, keepdim=True).clamp(min=1e-4), seen.any(1)


def sparsity(
    reflectance: Tensor,  # [B, V, 3]
    chroma: Tensor,  # [B, V, 2]
    known: Tensor,  # [B, V]
    edges: Tensor,  # [N, 2]
    eta: float = 80.0,
    p: float = 0.9,
    backend: Backend | None = None,
) -> Tensor:  # [B]
    """Computes the weighted l_p prior on differences of reflectance along edges, with a gradient to r.

    It is mean_{(i,j)} w_ij (||r_i - r_j||^2 + 1e-6)^(p/2) with w_ij = exp(-eta ||h_i - h_j||).

    h is the chromaticity of the image, held constant; where either vertex was not seen, w_ij = 1.

    Args:
        reflectance: [B, V, 3] floating point, linear RGB.
        chroma: [B, V, 2] of the same dtype, as `chromaticity` gives it.
        known: [B, V] bool.
        edges: [N, 2] int64, N >= 1, pairs of neighbouring vertices.
        eta: how fast the weight falls with the difference in chromaticity.
        p: power of the difference.
        backend: "torch" or "triton"; by default "triton" on a GPU, "torch" on the CPU.

    Raises:
        ValueError: wrong shape, dtype or device, or an index out of range, naming the argument.
    """
    check_tensor("reflectance", reflectance, ("B", "V", 3))
    like = ("reflectance", reflectance)
    count, vertices, _ = reflectance.shape
    check_tensor("chroma", chroma, (count, vertices, 2), (reflectance.dtype,), like)
    check_tensor("known", known, (count, vertices), (torch.bool,), like)
    check_tensor("edges", edges, ("N", 2), (torch.int64,), like)
    if len(edges) == 0:
        raise ValueError("edges must hold at least one pair")
    backend = choose_backend(backend, reflectance)
    return _sparsity(reflectance, chroma.detach(), known, edges, eta, p, backend)[0]


def _forward(
    reflectance: Tensor,  # [B, V, 3]
    chroma: Tensor,  # [B, V, 2]
    known: Tensor,  # [B, V]
    edges: Tensor,  # [N, 2]
    eta: float,
    p: float,
    backend: str,
) -> tuple[Tensor, Tensor]:  # [B], [B, V, 3]
    """Computes each subject's prior and its gradient, as both need the same gathers."""
    check_indices("edges", edges, reflectance.shape[1], "vertices")
    if backend == "triton":
        from .sparsity_triton import sparsity_triton

        return sparsity_triton(reflectance, chroma, known, edges, eta, p, TINY)
    return _sparsity_torch(reflectance, chroma, known, edges, eta, p)


def _backward(
    wanted: list[bool],
    grad_cost: Tensor,  # [B]
    gradient: Tensor,  # [B, V, 3]
) -> list[Tensor]:  # as reflectance
    return [gradient * grad_cost[:, None, None]]


def _fake(
    reflectance: Tensor, chroma: Tensor, known: Tensor, edges: Tensor, eta: float, p: float, backend: str
) -> tuple[Tensor, Tensor]:
    return reflectance.new_empty(len(reflectance)), torch.empty_like(reflectance)


def _fake_backward(wanted: list[bool], grad_cost: Tensor, gradient: Tensor) -> list[Tensor]:
    return [torch.empty_like(gradient)]


def _sparsity_torch(
    reflectance: Tensor,  # [B, V, 3]
    chroma: Tensor,  # [B, V, 2]
    known: Tensor,  # [B, V]
    edges: Tensor,  # [N, 2]
    eta: float,
    p: float,
) -> tuple[Tensor, Tensor]:  # [B], [B, V, 3]
    """As `_forward`, with subjects last, in [V, C, B] and [N, C, B]: long rows make gathers fast."""
    ends = edges.T.contiguous()
    difference, step = (_along_edges(values, ends) for values in (reflectance, chroma))
    h = torch.sqrt(step[:, 0] ** 2 + step[:, 1] ** 2)
    i, j = (known.T.contiguous().index_select(0, end) for end in ends)
    weight = torch.where(i & j, h, 0.0).mul_(-eta).exp_()
    square = (difference[:, 0] ** 2 + difference[:, 1] ** 2 + difference[:, 2] ** 2).add_(TINY)
    cost = square.pow(p / 2).mul_(weight)
    to_first = difference.mul_((cost / square).mul_(p / len(edges))[:, None])
    start, ends = _ends.get(edges, known.shape[1], lambda: _ends_at(edges, known.shape[1]))
    gradient = sum_rows(torch.cat([to_first, -to_first]).flatten(1), ends, start)
    return cost.mean(0), gradient.unflatten(1, (3, -1)).permute(2, 0, 1).contiguous()


_ends = TensorCache()


def _ends_at(edges: Tensor, vertices: int) -> tuple[Tensor, Tensor]:
    """Where the ends [2N] of edges at each vertex stand: first all the first ends, then all the second ones."""
    start, order = grouped(edges.T.flatten(), vertices)
    return start, order.int()


def _along_edges(
    values: Tensor,  # [B, V, C]
    ends: Tensor,  # [2, N]
) -> Tensor:  # [N, C, B]
    """values[i] - values[j]."""
    rows = values.permute(1, 2, 0).contiguous()
    return rows.index_select(0, ends[0]).sub_(rows.index_select(0, ends[1]))


_sparsity = register(
    "sparsity",
    _forward,
    _backward,
    _fake,
    outputs=("cost", "gradient"),
    gradients_to=("reflectance",),
    fake_backward=_fake_backward,
)
