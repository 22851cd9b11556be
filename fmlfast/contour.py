"""The jaw line of a face in an image: the outermost of a strip of candidate points, chosen anew for each pose."""

import torch
from torch import Tensor

from fmlfast.camera import project
from fmlfast.template import FaceTemplate

JAW_POINTS = 17


def select_contour(candidate_uv: Tensor, center: Tensor) -> Tensor:
    """Which candidate of each jaw landmark lies farthest outwards in the image.

    candidate_uv [F, 17, C, 2] float, px; the first candidate is the static point. center [F, 2] float, px, the
    middle of the face. Outwards is the direction from the centre to the static point. Returns int64 [F, 17], 0..C-1.
    Raises ValueError for other shapes.
    """
    if candidate_uv.ndim != 4 or candidate_uv.shape[1] != JAW_POINTS or candidate_uv.shape[3] != 2:
        raise ValueError(f"candidate_uv must be [F, {JAW_POINTS}, C, 2], got {list(candidate_uv.shape)}")
    if center.shape != (candidate_uv.shape[0], 2):
        raise ValueError(f"center must be [{candidate_uv.shape[0]}, 2], got {list(center.shape)}")
    outward = candidate_uv[:, :, 0] - center[:, None]  # [F, 17, 2]
    return torch.einsum("fjcd,fjd->fjc", candidate_uv, outward).argmax(dim=2)


def slide_landmarks(vertices: Tensor, Ks: Tensor, template: FaceTemplate) -> Tensor:
    """The 68 landmarks as a detector places them: the jaw line lies on the current silhouette.

    vertices [F, V, 3] float, camera frame, mm; Ks [F, 3, 3] px; template on the same device. Returns points
    [F, 68, 3] in the camera frame, mm; the choice of the silhouette has no gradient. Raises ValueError when V is not
    the template's.
    """
    points = template.landmarks(vertices)
    corners = template.triangles.long()[template.jaw_triangles]  # [17, C, 3]
    strips = (vertices[:, corners] * template.jaw_barycentrics[..., None]).sum(dim=3)  # [F, 17, C, 3]
    with torch.no_grad():
        strips_uv = project(strips.flatten(1, 2), Ks).unflatten(1, corners.shape[:2])
        index = select_contour(strips_uv, project(points[:, JAW_POINTS:], Ks).mean(dim=1))
    jaw = strips.gather(2, index[:, :, None, None].expand(-1, -1, 1, 3))[:, :, 0]
    return torch.cat([jaw, points[:, JAW_POINTS:]], dim=1)
