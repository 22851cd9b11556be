"""Faces of known shape and their exact landmarks and surface points."""

import torch
from torch import Tensor

from fmlfast.camera import project
from fmlfast.data.mediapipe478 import NUM_POINTS, NUM_SCORES
from fmlfast.data.synthetic.motion import rotation_from_angles
from fmlfast.ibug68 import LANDMARKS_66
from fmlfast.kernels.deform import deform
from fmlfast.model.gp_basis import smooth_fields
from fmlfast.model.landmark_fit import LandmarkObservations
from fmlfast.template.face_template import FaceTemplate

TEMPLATE = FaceTemplate.default(0)
FIELDS = smooth_fields(TEMPLATE.nodes, 60)
USED = list(LANDMARKS_66)
FACE = TEMPLATE.regions["face"]
ALL_POINTS = torch.arange(NUM_POINTS)


def geometry(smooth: Tensor, expression: Tensor, mean: Tensor | None = None) -> Tensor:
    """[B, N], [B * M, E] -> [B * M, V, 3]; `mean` [3G] displaces every face."""
    moved = (smooth @ FIELDS + (0.0 if mean is None else mean)).view(len(smooth), -1, 3)
    t, delta = TEMPLATE, expression.view(len(smooth), -1, expression.shape[1])
    return deform(t.vertices, moved, t.skin_indices, t.skin_weights, t.expressions, delta).flatten(0, 1)


def cameras(vertices: Tensor, turn: float = 0.0) -> tuple[Tensor, Tensor]:
    """Vertices in the camera's frame and cameras, of faces at 600 mm that are turned to several sides."""
    count = len(vertices)
    angles = torch.zeros(count, 3)
    angles[:, 0] = torch.linspace(-35, 35, count) + turn
    rotation = torch.from_numpy(rotation_from_angles(angles.numpy())).float()
    Ks = torch.tensor([[300.0, 0, 64], [0, 300, 64], [0, 0, 1]]).expand(count, 3, 3)
    return vertices @ rotation.mT + torch.tensor([5.0, -3.0, 600.0]), Ks


def seen(vertices: Tensor, turn: float = 0.0) -> tuple[Tensor, Tensor]:
    """Exact landmarks [F, 66, 2] and cameras of faces at 600 mm, turned to several sides."""
    camera, Ks = cameras(vertices, turn)
    return project(TEMPLATE.slide_landmarks(camera, Ks), Ks)[:, USED], Ks


def sparse(landmarks: Tensor, Ks: Tensor, subjects: int, confidence: Tensor | None = None) -> LandmarkObservations:
    """What is observed where there are the 66 landmarks alone."""
    confidence = landmarks.new_ones(len(landmarks), len(USED)) if confidence is None else confidence
    surface = landmarks.new_zeros(len(landmarks), NUM_POINTS, 2)
    scores = landmarks.new_zeros(len(landmarks), NUM_SCORES)
    return LandmarkObservations(landmarks, confidence, Ks, subjects, surface, surface[..., 0], scores)


def dense(vertices: Tensor, subjects: int, spread: float = 0.5, turn: float = 0.0) -> LandmarkObservations:
    """Exact landmarks and surface points of faces, of which the detector says they are off by `spread` px; scores 0."""
    camera, Ks = cameras(vertices, turn)
    surface = project(TEMPLATE.surface_points(camera, ALL_POINTS), Ks)
    precision = torch.full(surface.shape[:2], spread**-2)
    return sparse(*seen(vertices, turn), subjects)._replace(surface=surface, precision=precision)
