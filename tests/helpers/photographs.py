"""Renders photos of the mean face, and a detector that knows where it is."""

import numpy as np
import torch

from fmlfast.camera import project
from fmlfast.color import linear_to_srgb
from fmlfast.data.crop import assumed_K
from fmlfast.data.face_detector import Face
from fmlfast.data.mediapipe478 import NUM_POINTS
from fmlfast.renderer import render
from fmlfast.rotation import FRONTAL, rotation_about_view, rotation_from_axis_angle
from fmlfast.template.face_template import FaceTemplate
from tests.helpers.detections import face_detection

PLACES = {"left": (230, 310, 60.0, 0.15), "right": (281, 201, -40.0, -0.2)}  # height, width, mm to the right, roll


def photograph(
    height: int, width: int, right: float, roll: float, focal: float = 1.0, bearing: float = 0.0
) -> tuple[np.ndarray, Face]:
    """A render of the mean face somewhere in a photo, and what a perfect detector says of it.

    `focal` times the usual focal length, from as much farther away; `bearing` turns the head, radians.
    """
    template = FaceTemplate.default(0)
    turn = rotation_from_axis_angle(torch.tensor([0.0, bearing, 0.0]))
    rotation = rotation_about_view(torch.tensor([roll]))[0] @ torch.tensor(FRONTAL) @ turn
    K = torch.from_numpy(assumed_K(width, height)).float()
    K[[0, 1], [0, 1]] *= focal
    viewmat = torch.eye(4)
    viewmat[:3, :3], viewmat[:3, 3] = rotation, torch.tensor([right, 15.0, 520.0 * focal])
    shaded = template.colors * (0.55 + 0.1 * template.vertices[:, 2:] / 80)
    picture = render(
        template.vertices[None], template.triangles, shaded[None], viewmat[None], K[None], height, width,
        torch.tensor([0.1, 0.2, 0.3]),
    )  # fmt: skip
    camera = (template.vertices @ rotation.T + viewmat[:3, 3])[None]
    landmarks = project(template.slide_landmarks(camera, K[None]), K[None])[0].numpy()
    (x0, y0), (x1, y1) = landmarks.min(0), landmarks.max(0)
    confidence = np.ones(68, np.float32)
    points = project(template.surface_points(camera, torch.arange(NUM_POINTS)), K[None])[0].numpy()
    detection = face_detection(landmarks, rotation.numpy(), points)
    face = Face(landmarks, confidence, (float(x0), float(y0), float(x1), float(y1)), detection, 0.0)
    return (linear_to_srgb(picture.image[0]) * 255).round().byte().numpy(), face


class FakeDetector:
    """Finds the faces it was told of, by the size of the photo."""

    faces: dict[tuple[int, int], list[Face]] = {}

    def __enter__(self) -> "FakeDetector":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def detect(self, image: np.ndarray) -> list[Face]:
        return self.faces.get((image.shape[0], image.shape[1]), [])
