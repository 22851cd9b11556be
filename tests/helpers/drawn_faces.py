"""Faces that are drawn, and a detector that finds them."""

import math

import numpy as np
from PIL import Image

from fmlfast.data.face_detector import Face
from tests.helpers.detections import face_detection

HEIGHT, WIDTH = 120, 200
RED, BLUE = (1.0, 0.25, 0.25), (0.25, 0.25, 1.0)
FRONTAL = np.diag([1, -1, -1]).astype(np.float32)


def make_face(x: float, y: float, size: float, doubt: float = 0.005, rotation: np.ndarray = FRONTAL) -> Face:
    """A face whose landmarks lie on a spiral that fills a square of side `size` around (x, y)."""
    angle = np.linspace(0, 8 * np.pi, 68)
    radius = np.linspace(0.1, 1, 68)
    unit = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    unit = (unit - unit.min(axis=0)) / np.ptp(unit, axis=0) - 0.5
    landmarks = (unit * size + (x, y)).astype(np.float32)
    box = (x - size / 2, y - size / 2, x + size / 2, y + size / 2)
    return Face(landmarks, np.full(68, 0.9, np.float32), box, face_detection(landmarks, rotation), doubt)


def turn(yaw: float, pitch: float) -> np.ndarray:
    """The rotation of a head turned by so many degrees."""
    a, b = math.radians(yaw), math.radians(pitch)
    about_y = np.array([[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, math.cos(b), -math.sin(b)], [0, math.sin(b), math.cos(b)]])
    return about_y @ about_x @ FRONTAL


def textured(rng: np.random.Generator, size: int) -> np.ndarray:
    """Detail at all scales, as skin, brows and lips have."""
    total = np.zeros((size, size))
    for cells in (4, 8, 16, 32, 64):
        layer = Image.fromarray(rng.uniform(0, 1, (cells, cells)).astype(np.float32)).resize((size, size))
        total += np.asarray(layer) / cells**0.5
    grey = 255 * (total - total.min()) / np.ptp(total)
    return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)


def draw(background: np.ndarray, *faces: tuple[float, float, float, tuple[float, float, float]]) -> np.ndarray:
    """Textured squares (centre x, y, side, colour) on a picture: the faces that SquareDetector finds."""
    image = background.copy()
    for x, y, side, colour in faces:
        skin = textured(np.random.default_rng(int(side)), 128)
        patch = np.array(Image.fromarray(skin).resize((int(side), int(side)), Image.Resampling.LANCZOS))
        left, top = int(x - side / 2), int(y - side / 2)
        tinted = ((40 + patch * 0.84) * colour).astype(np.uint8)
        image[top : top + int(side), left : left + int(side)] = tinted
    return image


class SquareDetector:
    """Finds the squares that `draw` made; the pose is read from where they are, doubt from a mark in the corner."""

    def __init__(self) -> None:
        self.calls = 0

    def detect(self, image: np.ndarray, min_face: float = 0) -> list[Face]:
        self.calls += 1
        values = image.astype(int)
        faces = []
        for strong, weak in ((0, 2), (2, 0)):
            ys, xs = np.nonzero(values[..., strong] > 2.2 * values[..., weak] + 5)
            if len(xs) > 50:
                side = float(np.ptp(xs) + 1)
                x = float(xs.mean()) + 0.5
                doubt = 0.03 if image[:4, :4].mean() > 250 else 0.004
                faces.append(make_face(x, float(ys.mean()) + 0.5, side, doubt, turn(0.4 * (x - WIDTH / 2), 0)))
        return sorted(faces, key=lambda face: -face.size)


def moving(background: np.ndarray, count: int = 24, side: float = 60, colour: tuple = RED) -> list[np.ndarray]:
    """A square that wanders from left to right."""
    return [draw(background, (x, 60, side, colour)) for x in np.linspace(50, 150, count)]
