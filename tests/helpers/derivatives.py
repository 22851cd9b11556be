"""Derivatives of barycentrics over the screen in closed form, for fragments of any rasteriser."""

from dataclasses import replace

import torch
from torch import Tensor

from fmlfast.kernels.rasterize import Fragments


def with_derivatives(
    fragments: Fragments,
    vertices: Tensor,  # [F, V, 3]
    triangles: Tensor,  # [T, 3]
    Ks: Tensor,  # [F, 3, 3]
) -> Fragments:
    """The fragments with derivatives: the slope of b = w / sum(w), where w = M (x, y, 1) solves corners^T w = ray."""
    f, y, x = (fragments.triangle_id >= 0).nonzero().T
    corners = vertices[f[:, None], triangles[fragments.triangle_id[f, y, x].long()].long()].double()
    M = torch.linalg.inv(corners.transpose(1, 2)) @ torch.linalg.inv(Ks.double())[f]
    w = (M @ torch.stack([x + 0.5, y + 0.5, torch.ones_like(x)], 1).double()[..., None])[..., 0]
    b, total = w / w.sum(1, keepdim=True), w.sum(1)[:, None, None]
    slopes = (M[:, :, :2] - b[..., None] * M[:, :, :2].sum(1, keepdim=True)) / total
    derivatives = fragments.barycentrics.new_zeros(*fragments.triangle_id.shape, 4)
    derivatives[f, y, x] = slopes[:, :2].flatten(1).to(derivatives)
    return replace(fragments, derivatives=derivatives)
