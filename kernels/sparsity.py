"""Reflectance sparsity: skin of one chromaticity in the image has one reflectance, and what varies is light.

The weighted l_p prior of the paper's section 5; torch reference and public operations.
"""

import torch
from torch import Tensor

from ._backend import Backend, choose_backend
from ._checks import check_indices, check_tensor
from ._gather import gather_rows

TINY = 1e-6  # added to squared differences, so that the gradient stays finite where they vanish


def chromaticity(
    colors: Tensor,  # [B, M, V, 3]
    weights: Tensor,  # [B, M, V]
    backend: Backend | None = None,
) -> tuple[Tensor, Tensor]:  # [B, V, 2], [B, V] bool
    """r / (r + g + b) and g / (r + g + b) of the image at every vertex, over the frames that see it. No gradient.

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
        from .sparsity_triton import chromaticity_triton

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
    """mean_{(i,j)} w_ij (||r_i - r_j||^2 + 1e-6)^(p/2) with w_ij = exp(-eta ||h_i - h_j||), and a gradient to r.

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
    check_indices("edges", edges, vertices, "vertices")
    if choose_backend(backend, reflectance) == "triton":
        from .sparsity_triton import sparsity_triton

        return sparsity_triton(reflectance, chroma, known, edges, eta, p)
    i, j = edges.unbind(1)
    chroma = chroma.detach()
    rows = gather_rows(reflectance.transpose(0, 1).flatten(1), edges)  # [N, 2, 3B]
    h = (chroma[:, i] - chroma[:, j]).norm(dim=-1)
    weight = torch.exp(-eta * torch.where(known[:, i] & known[:, j], h, 0.0))
    difference = (rows[:, 0] - rows[:, 1]).square().unflatten(1, (count, 3)).sum(-1).T
    return (weight * (difference + TINY).pow(p / 2)).mean(1)
