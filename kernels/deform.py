"""Geometry from codes: linear skinning of graph displacements, blendshapes and a rigid pose (paper section 3)."""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.autograd.function import once_differentiable

from .common.backend import Backend, choose_backend
from .common.cache import TensorCache
from .common.checks import check_indices, check_tensor
from .common.custom_op import register
from .common.gather import sum_rows
from .common.topology import grouped


def skin_displacements(
    displacements: Tensor,  # [B, G, 3] mm
    skin_indices: Tensor,  # [V, 8] int32 or int64, nodes
    skin_weights: Tensor,  # [V, 8], rows sum to 1
    backend: Backend | None = None,
) -> Tensor:  # [B, V, 3] mm
    """Translation-only linear skinning S t: every vertex moves by the weighted mean of its nodes' displacements.

    Differentiable in the displacements; the skinning is constant.

    Args:
        displacements: float32, with backend "torch" also float64.
        skin_indices: at least one node a vertex; looked at once, and again after it was changed in place.
        skin_weights: float32 or float64, with backend "triton" float32.
        backend: "torch" or "triton"; by default the one for the device.

    Raises:
        ValueError: naming the argument of a wrong shape, type, device, layout or value.
    """
    _check_skinning(displacements, skin_indices, skin_weights)
    backend = choose_backend(backend, displacements)
    if backend == "triton":
        check_tensor("skin_weights", skin_weights, tuple(skin_indices.shape), (torch.float32,))
    return _skin(displacements, skin_indices, skin_weights, displacements.shape[1], backend)


def deform(
    mean: Tensor,  # [V, 3] mm
    displacements: Tensor,  # [B, G, 3] mm
    skin_indices: Tensor,  # [V, 8] int32 or int64, nodes
    skin_weights: Tensor,  # [V, 8], rows sum to 1
    expressions: Tensor,  # [E, V, 3] mm
    delta: Tensor,  # [B, M, E]
    rotation: Tensor | None = None,  # [B, M, 3, 3]
    translation: Tensor | None = None,  # [B, M, 3] mm
    backend: Backend | None = None,
) -> Tensor:  # [B, M, V, 3] mm
    """Deforms and poses the template (paper equation 1): R (v_bar + S t + E delta) + t, of M frames of B subjects.

    Differentiable in all but the skinning.

    Args:
        mean: the type of `displacements`.
        displacements: of the graph's nodes; float32, with backend "torch" also float64.
        skin_indices: as in `skin_displacements`.
        skin_weights: as in `skin_displacements`.
        expressions: blendshapes at full strength; the type of `displacements`, or bfloat16, which halves the bytes.
        delta: expression coefficients.
        rotation: orthonormal: with backend "triton" its own gradient uses that the transpose is its inverse.
        translation: given with `rotation`, or neither.
        backend: "torch" or "triton"; by default the one for the device.

    Raises:
        ValueError: naming the argument of a wrong shape, type, device, layout or value.
    """
    _check_skinning(displacements, skin_indices, skin_weights)
    like, dtype = ("displacements", displacements), displacements.dtype
    subjects, vertices = len(displacements), len(skin_indices)
    check_tensor("mean", mean, (vertices, 3), (dtype,), like)
    check_tensor("expressions", expressions, ("E", vertices, 3), (dtype, torch.bfloat16), like)
    check_tensor("delta", delta, (subjects, "M", len(expressions)), (dtype,), like, contiguous=False)
    if (rotation is None) != (translation is None):
        raise ValueError("rotation and translation must be given together, or neither")
    if rotation is not None and translation is not None:
        check_tensor("rotation", rotation, (subjects, delta.shape[1], 3, 3), (dtype,), like, contiguous=False)
        check_tensor("translation", translation, (subjects, delta.shape[1], 3), (dtype,), like, contiguous=False)
    if choose_backend(backend, displacements) == "triton":
        _check_nodes(skin_indices, displacements.shape[1])
        from .deform_triton import deform_triton  # not before: Triton is not on every platform

        check_tensor("skin_weights", skin_weights, tuple(skin_indices.shape), (torch.float32,))
        return deform_triton(mean, displacements, skin_indices, skin_weights, expressions, delta, rotation, translation)
    neutral = mean + _skin(displacements, skin_indices, skin_weights, displacements.shape[1], "torch")
    with torch.autocast(mean.device.type, enabled=False):  # which would round positions to 8 bits
        offsets = delta.flatten(0, 1) @ expressions.flatten(1).to(dtype)
        local = neutral[:, None] + offsets.view(*delta.shape[:2], vertices, 3)
        if rotation is None or translation is None:
            return local
        posed = _Pose.apply(local.flatten(0, 1), rotation.flatten(0, 1), translation.flatten(0, 1))
        return posed.view(local.shape)


def _forward(
    displacements: Tensor,  # [B, G, 3]
    skin_indices: Tensor,  # [V, 8]
    skin_weights: Tensor,  # [V, 8]
    nodes: int,
    backend: str,
) -> Tensor:  # [B, V, 3]
    """Skins; in plain torch by weighted sums of rows of all subjects."""
    _check_nodes(skin_indices, nodes)
    if backend == "triton":
        from .deform_triton import skin_displacements_triton  # not before: Triton is not on every platform

        return skin_displacements_triton(displacements, skin_indices, skin_weights)
    table = rearrange(displacements, "b g c -> g (b c)")
    moved = sum_rows(table, skin_indices, weights=skin_weights.to(table.dtype))
    return rearrange(moved, "v (b c) -> b v c", c=3).contiguous()


def _backward(
    wanted: list[bool],
    grad_out: Tensor,  # [B, V, 3]
    skin_indices: Tensor,  # [V, 8]
    skin_weights: Tensor,  # [V, 8]
    nodes: int,
    backend: str,
) -> list[Tensor]:  # as displacements
    """Carries gradients back to the nodes; torch's own sorts the indices anew each time."""
    if backend == "triton":
        from .deform_grad_triton import unskin

        return [unskin(grad_out.transpose(0, 1).contiguous(), nodes, skin_indices, skin_weights)]
    start, places = _skinned.get(skin_indices, nodes, lambda: grouped(skin_indices.flatten(), nodes))
    vertices = (places // skin_indices.shape[1]).int()
    weights = skin_weights.to(grad_out.dtype).flatten().index_select(0, places)
    rows = rearrange(grad_out, "b v c -> v (b c)").contiguous()
    return [rearrange(sum_rows(rows, vertices, start, weights), "g (b c) -> b g c", c=3).contiguous()]


def _fake(displacements: Tensor, skin_indices: Tensor, skin_weights: Tensor, nodes: int, backend: str) -> Tensor:
    return displacements.new_empty(len(displacements), len(skin_indices), 3)


def _fake_backward(
    wanted: list[bool], grad_out: Tensor, skin_indices: Tensor, skin_weights: Tensor, nodes: int, backend: str
) -> list[Tensor]:
    return [grad_out.new_empty(len(grad_out), nodes, 3)]


_skinned = TensorCache()


class _Pose(torch.autograd.Function):
    """R v + t in planes [F, 3, V], whose long rows make small products fast: [F, V, 3], [F, 3, 3], [F, 3]."""

    @staticmethod
    def forward(ctx: Any, vertices: Tensor, rotation: Tensor, translation: Tensor) -> Tensor:
        points = vertices.transpose(1, 2).contiguous()
        ctx.save_for_backward(points, rotation)
        return (rotation @ points).add_(translation[..., None]).transpose(1, 2).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        points, rotation = ctx.saved_tensors
        upstream = gradient.transpose(1, 2).contiguous()
        with torch.autocast(gradient.device.type, enabled=False):
            to_vertices = (rotation.transpose(1, 2) @ upstream).transpose(1, 2).contiguous()
            return to_vertices, upstream @ points.transpose(1, 2), upstream.sum(2)


def _check_skinning(displacements: Tensor, skin_indices: Tensor, skin_weights: Tensor) -> None:
    check_tensor("displacements", displacements, ("B", "G", 3), contiguous=False)
    like = ("displacements", displacements)
    check_tensor("skin_indices", skin_indices, ("V", "8"), (torch.int32, torch.int64), like)
    check_tensor("skin_weights", skin_weights, tuple(skin_indices.shape), like=like)


def _check_nodes(skin_indices: Tensor, nodes: int) -> None:
    if skin_indices.numel():
        check_indices("skin_indices", skin_indices, nodes, "nodes")


_skin = register(
    "skin_displacements",
    _forward,
    _backward,
    _fake,
    outputs=("out",),
    gradients_to=("displacements",),
    fake_backward=_fake_backward,
)
