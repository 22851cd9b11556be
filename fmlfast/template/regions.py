"""Smooth masks over a face, derived from its landmarks."""

import torch
from torch import Tensor

BROW_LIFT = -3.8  # mm; from the landmarks, which mark the upper edge, to the middle of the hair


def smoothstep(x: Tensor, low: float, high: float) -> Tensor:
    """0 below `low`, 1 above `high`, a cubic between."""
    t = ((x - low) / (high - low)).clamp(0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def polyline_distance(points: Tensor, line: Tensor) -> Tensor:
    """Distance [V] of points [V, 3] to the polyline through line [L, 3]."""
    start, step = line[:-1], line[1:] - line[:-1]  # [L - 1, 3]
    offset = points[:, None] - start  # [V, L - 1, 3]
    t = ((offset * step).sum(-1) / step.square().sum(-1).clamp(min=1e-12)).clamp(0.0, 1.0)
    return (offset - t[..., None] * step).norm(dim=-1).min(dim=1).values


def brow_mask(vertices: Tensor, landmarks: Tensor) -> Tensor:
    """Brows [V] around landmarks 17-26 of landmarks [68, 3], mm."""
    lift = torch.tensor([0.0, BROW_LIFT, 0.0])
    distance = torch.minimum(
        polyline_distance(vertices, landmarks[17:22] + lift), polyline_distance(vertices, landmarks[22:27] + lift)
    )
    return 1.0 - smoothstep(distance, 1.5, 6.0)


def lip_mask(vertices: Tensor, landmarks: Tensor) -> Tensor:
    """Lips [V]: closer than a few mm to the middle between the outer and the inner lip contour."""
    upper = torch.cat([landmarks[48:49], 0.5 * (landmarks[49:54] + landmarks[[60, 61, 62, 63, 64]]), landmarks[54:55]])
    lower = torch.cat([landmarks[54:55], 0.5 * (landmarks[55:60] + landmarks[[64, 65, 66, 67, 60]]), landmarks[48:49]])
    distance = torch.minimum(polyline_distance(vertices, upper), polyline_distance(vertices, lower))
    return 1.0 - smoothstep(distance, 3.0, 7.0)


def neck_mask(vertices: Tensor, landmarks: Tensor) -> Tensor:
    """Neck [V]: below the plane through the chin and both jaw corners, 8 to 20 mm under it."""
    chin, right, left = landmarks[8], landmarks[3], landmarks[13]
    normal = torch.linalg.cross(left - right, chin - right)
    normal = normal / normal.norm()
    normal = normal * (1.0 if normal[1] > 0 else -1.0)
    return smoothstep((chin - vertices) @ normal, 8.0, 20.0)


def face_mask(vertices: Tensor, landmarks: Tensor, skin: Tensor, ears: Tensor, neck: Tensor) -> Tensor:
    """Where errors are measured [V]: skin within 95 mm of the nose tip, before the ears, above the neck."""
    near = 1.0 - smoothstep((vertices - landmarks[30]).norm(dim=1), 90.0, 100.0)
    front = smoothstep(vertices[:, 2] - landmarks[[1, 15], 2].mean(), -8.0, 4.0)
    return skin * near * front * (1.0 - ears) * (1.0 - neck)
