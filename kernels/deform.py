"""Geometry from codes: linear skinning of graph displacements, blendshapes and a rigid pose (paper section 3)."""

import torch
from einops import rearrange
from torch import Tensor

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
    backend = choose_backend(backend, displacements)
    if backend == "triton":
        check_tensor("skin_weights", skin_weights, tuple(skin_indices.shape), (torch.float32,))
    skin, pose = (skin_indices, skin_weights), (rotation, translation)
    return _deform(mean, displacements, *skin, expressions, delta, *pose, displacements.shape[1], backend)[0]


def _skin_forward(
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


def _skin_backward(
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


def _skin_fake(displacements: Tensor, skin_indices: Tensor, skin_weights: Tensor, nodes: int, backend: str) -> Tensor:
    return displacements.new_empty(len(displacements), len(skin_indices), 3)


def _skin_fake_backward(
    wanted: list[bool], grad_out: Tensor, skin_indices: Tensor, skin_weights: Tensor, nodes: int, backend: str
) -> list[Tensor]:
    return [grad_out.new_empty(len(grad_out), nodes, 3)]


_skinned = TensorCache()


def _deform_forward(
    mean: Tensor,  # [V, 3]
    displacements: Tensor,  # [B, G, 3]
    skin_indices: Tensor,  # [V, 8]
    skin_weights: Tensor,  # [V, 8]
    expressions: Tensor,  # [E, V, 3]
    delta: Tensor,  # [B, M, E]
    rotation: Tensor | None,  # [B, M, 3, 3]
    translation: Tensor | None,  # [B, M, 3]
    nodes: int,
    backend: str,
) -> tuple[Tensor, Tensor]:  # [B, M, V, 3], [B M, 3, V] or [0]
    """Deforms; in plain torch also returns what it poses, in planes, whose long rows make small products fast."""
    if backend == "triton":
        _check_nodes(skin_indices, nodes)
        from .deform_triton import deform_triton  # not before: Triton is not on every platform

        skin = skin_indices, skin_weights
        out = deform_triton(mean, displacements, *skin, expressions, delta, rotation, translation)
        return out, out.new_empty(0)
    neutral = mean + _skin_forward(displacements, skin_indices, skin_weights, nodes, backend)
    offsets = delta.flatten(0, 1) @ expressions.flatten(1).to(delta.dtype)
    local = neutral[:, None] + offsets.view(*delta.shape[:2], *mean.shape)
    if rotation is None or translation is None:
        return local, local.new_empty(0)
    points = local.flatten(0, 1).transpose(1, 2).contiguous()
    posed = (rotation.flatten(0, 1) @ points).add_(translation.flatten(0, 1)[..., None])
    return posed.transpose(1, 2).contiguous().view(local.shape), points


def _deform_backward(
    wanted: list[bool],
    grad_out: Tensor,  # [B, M, V, 3]
    out: Tensor,  # [B, M, V, 3]
    points: Tensor,  # [B M, 3, V] or [0]
    skin_indices: Tensor,  # [V, 8]
    skin_weights: Tensor,  # [V, 8]
    expressions: Tensor,  # [E, V, 3]
    delta: Tensor,  # [B, M, E]
    rotation: Tensor | None,  # [B, M, 3, 3]
    translation: Tensor | None,  # [B, M, 3]
    nodes: int,
    backend: str,
) -> list[Tensor]:  # as mean, displacements, expressions, delta, rotation, translation
    """Carries gradients back through pose, blendshapes and skinning."""
    if backend == "triton":
        from .deform_triton import deform_triton_backward

        skin = skin_indices, skin_weights
        return deform_triton_backward(wanted, grad_out, out, *skin, expressions, delta, rotation, translation, nodes)
    mean, displacements, basis, codes, turned, moved = wanted
    found: list[Tensor | None] = [None] * 6
    local = grad_out
    if rotation is not None:
        upstream = grad_out.flatten(0, 1).transpose(1, 2).contiguous()  # in planes
        if mean or displacements or basis or codes:
            turned_back = rotation.flatten(0, 1).transpose(1, 2) @ upstream
            local = turned_back.transpose(1, 2).contiguous().view(grad_out.shape)
        found[4] = (upstream @ points.transpose(1, 2)).view(rotation.shape) if turned else None
        found[5] = upstream.sum(2).view(rotation.shape[:-1]) if moved else None
    if mean or displacements:
        summed = local.sum(1)
        found[0] = summed.sum(0) if mean else None
        if displacements:
            found[1] = _skin_backward([True], summed, skin_indices, skin_weights, nodes, backend)[0]
    if basis or codes:
        rows, flat = local.flatten(0, 1).flatten(1), expressions.flatten(1)  # [B M, 3V], [E, 3V]
        found[2] = (delta.flatten(0, 1).T @ rows).to(flat.dtype).view(expressions.shape) if basis else None
        found[3] = (rows @ flat.to(rows.dtype).T).view(delta.shape) if codes else None
    return [x for x in found if x is not None]


def _deform_fake(
    mean: Tensor,
    displacements: Tensor,
    skin_indices: Tensor,
    skin_weights: Tensor,
    expressions: Tensor,
    delta: Tensor,
    rotation: Tensor | None,
    translation: Tensor | None,
    nodes: int,
    backend: str,
) -> tuple[Tensor, Tensor]:
    (subjects, frames, _), vertices = delta.shape, len(mean)
    planes = (0,) if backend == "triton" or rotation is None else (subjects * frames, 3, vertices)
    return delta.new_empty(subjects, frames, vertices, 3), delta.new_empty(planes)


def _deform_fake_backward(
    wanted: list[bool],
    grad_out: Tensor,
    out: Tensor,
    points: Tensor,
    skin_indices: Tensor,
    skin_weights: Tensor,
    expressions: Tensor,
    delta: Tensor,
    rotation: Tensor | None,
    translation: Tensor | None,
    nodes: int,
    backend: str,
) -> list[Tensor]:
    subjects, frames, vertices, _ = grad_out.shape
    pose = (subjects, frames, 3, 3), (subjects, frames, 3)
    shapes = (vertices, 3), (subjects, nodes, 3), expressions.shape, delta.shape, *pose
    types = grad_out.dtype, grad_out.dtype, expressions.dtype, *3 * (grad_out.dtype,)
    found = zip(shapes, types, wanted, strict=True)
    return [grad_out.new_empty(shape, dtype=dtype) for shape, dtype, needed in found if needed]


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
    _skin_forward,
    _skin_backward,
    _skin_fake,
    outputs=("out",),
    gradients_to=("displacements",),
    fake_backward=_skin_fake_backward,
)
_deform = register(
    "deform",
    _deform_forward,
    _deform_backward,
    _deform_fake,
    outputs=("out", "points"),
    gradients_to=("mean", "displacements", "expressions", "delta", "rotation", "translation"),
    fake_backward=_deform_fake_backward,
)
