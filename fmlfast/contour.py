"""The jaw line of a face in an image: the outermost of a strip of candidate vertices, chosen anew for each pose."""

import torch
from torch import Tensor

from fmlfast.template import FaceTemplate

JAW_POINTS = 17


def select_contour(candidate_uv: Tensor, center: Tensor) -> Tensor:
    """Which candidate of each jaw landmark lies farthest outwards in the image.

    candidate_uv [F, 17, C, 2] float, px; the first candidate is the landmark's static point. center [F, 2] float, px, the
    middle of the face. Outwards is the direction from the centre to the static point. Returns int64 [F, 17], 0..C-1.
    Raises ValueError for other shapes.
    """
    if candidate_uv.ndim != 4 or candidate_uv.shape[1] != JAW_POINTS or candidate_uv.shape[3] != 2:
        raise ValueError(f"candidate_uv must be [F, {JAW_POINTS}, C, 2], got {list(candidate_uv.shape)}")
    if center.shape != (candidate_uv.shape[0], 2):
        raise ValueError(f"center must be [{candidate_uv.shape[0]}, 2], got {list(center.shape)}")
    outward = candidate_uv[:, :, 0] - center[:, None]  # [F, 17, 2]
    return torch.einsum("fjcd,fjd->fjc", candidate_uv, outward).argmax(dim=2)


def sliding_jaw(uv: Tensor, template: FaceTemplate) -> Tensor:
    """The vertices that form the jaw line in each image.

    uv [F, V, 2] float, px, projections of the template's vertices. Returns vertex ids int64 [F, 17] out of
    `template.jaw_candidates`. Raises ValueError when V is not the template's.
    """
    if uv.ndim != 3 or uv.shape[1:] != (len(template.vertices), 2):
        raise ValueError(f"uv must be [F, {len(template.vertices)}, 2], got {list(uv.shape)}")
    candidates = template.jaw_candidates.to(uv.device)  # [17, C]
    inner = template.landmarks(torch.nn.functional.pad(uv, (0, 1)))[:, JAW_POINTS:, :2]  # [F, 51, 2]
    index = select_contour(uv[:, candidates], inner.mean(dim=1))  # [F, 17]
    return candidates.expand(len(uv), -1, -1).gather(2, index[:, :, None])[:, :, 0]
