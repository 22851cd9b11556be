"""The template as a mesh and as a scan of known position, shared by the tests of scan errors."""

from functools import cache

import numpy as np
import torch

from fmlfast.data.synthetic.people import PeopleSampler
from fmlfast.evaluation.scans.alignment import MeshToScan
from fmlfast.evaluation.scans.datasets import NOW_POINTS
from fmlfast.template.face_template import FaceTemplate

TEMPLATE = FaceTemplate.default(0)
VERTICES = TEMPLATE.vertices.double().numpy()
TRIANGLES = TEMPLATE.triangles.numpy()
LANDMARKS = TEMPLATE.landmarks(TEMPLATE.vertices).double().numpy()[list(NOW_POINTS)]
FACE = (TEMPLATE.regions["face"] > 0.5).numpy()
TURN = torch.linalg.matrix_exp(torch.tensor([[0, -0.4, 0.2], [0.4, 0, -0.7], [-0.2, 0.7, 0]], dtype=torch.float64))
MOVE = MeshToScan(1.3, TURN.numpy(), np.array([40.0, -25.0, 700.0]))


def wobble(landmarks: np.ndarray, sigma: float = 2.0) -> np.ndarray:
    """Landmarks as a person marks them, off by a few mm."""
    return landmarks + np.random.default_rng(3).normal(0, sigma, landmarks.shape)


def samples(count: int, seed: int = 0) -> np.ndarray:
    """Random points on the surface of the template's face, which are no vertices."""
    rng = np.random.default_rng(seed)
    inside = np.nonzero(FACE[TRIANGLES].all(1))[0]
    corners = VERTICES[TRIANGLES[rng.choice(inside, count)]]
    weights = rng.dirichlet([1, 1, 1], count)
    return (weights[:, :, None] * corners).sum(1)


@cache
def deformed(seed: int) -> torch.Tensor:
    """A random person on the base mesh."""
    return torch.from_numpy(PeopleSampler().sample(np.random.default_rng(seed)).vertices)
