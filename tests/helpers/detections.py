"""What a face detector might say of frames: random but valid, or all but exact for faces whose truth is known."""

from dataclasses import replace

import numpy as np
import torch

from fmlfast.camera import project
from fmlfast.data.detection import NUM_SURFACE, Detection
from fmlfast.data.landmark_assets import FEATURES
from fmlfast.data.mediapipe478 import NUM_POINTS, NUM_SCORES, SCORE_NAMES
from fmlfast.data.shards import Clip
from fmlfast.data.synthetic.motion import rotation_from_angles
from fmlfast.template.face_template import FaceTemplate

SPREAD = 0.01  # of the image's side, standard deviation of the points that `perfect` gives


def random_detection(rng: np.random.Generator, found: list[bool], size: float = 64) -> Detection:
    """Random numbers in frames where a face is `found`, zeros in the others."""
    count, known = len(found), np.array(found, np.bool_)
    arrays = {
        "points": rng.uniform(0, size, (count, NUM_POINTS, 2)),
        "surface": rng.uniform(0, size, (count, NUM_SURFACE, 2)),
        "spread": rng.uniform(0.2, 2, (count, NUM_SURFACE)),
        "scores": rng.uniform(0, 1, (count, NUM_SCORES)),
        "rotation": rotation_from_angles(rng.uniform(-30, 30, (count, 3))),
        "features": rng.normal(0, 1, (count, 2, FEATURES)),
    }
    masked = {name: array * known.reshape(-1, *[1] * (array.ndim - 1)) for name, array in arrays.items()}
    return Detection(known, **{name: array.astype(np.float32) for name, array in masked.items()})


def face_detection(landmarks: np.ndarray, rotation: np.ndarray, points: np.ndarray | None = None) -> Detection:
    """The detection of one frame, of a face with these landmarks [68, 2] and points [478, 2], or any among them."""
    size = float(np.ptp(landmarks, axis=0).max())
    seen = random_detection(np.random.default_rng(0), [True], 1.0)
    if points is None:
        points = landmarks.min(axis=0) + seen.points[0] * np.ptp(landmarks, axis=0)
    assert points is not None
    points = points.astype(np.float32)
    surface = np.concatenate([points, landmarks])[None].astype(np.float32)
    spread = np.full_like(seen.spread, 0.005 * size)
    turned = np.asarray(rotation, np.float32)[None]
    return replace(seen, points=points[None], surface=surface, spread=spread, rotation=turned)


def with_perfect_detection(clip: Clip, truth: dict[str, np.ndarray], noise: float = 0.0) -> Clip:
    """The clip with what a detector says whose points are off by `noise` times their spread, whose scores are true."""
    template, rng = FaceTemplate.default(0), np.random.default_rng(len(clip.key) + clip.frames)
    known = {name: torch.from_numpy(array).float() for name, array in truth.items()}
    moved = torch.einsum("me,evc->mvc", known["expression"], template.expressions)
    camera = (known["vertices"] + moved) @ known["rotation"].mT + known["translation"][:, None]
    surface = project(template.surface_points(camera, torch.arange(NUM_POINTS)), torch.from_numpy(clip.Ks)).numpy()
    exact = np.concatenate([surface, truth["landmarks"]], axis=1)
    spread = SPREAD * clip.images.shape[1]
    scores = np.zeros((clip.frames, NUM_SCORES), np.float32)
    scores[:, [SCORE_NAMES.index(name) for name in template.expression_names]] = truth["expression"]
    seen = Detection(
        found=np.ones(clip.frames, np.bool_),
        points=surface.astype(np.float32),
        surface=(exact + noise * spread * rng.standard_normal(exact.shape)).astype(np.float32),
        spread=np.full((clip.frames, NUM_SURFACE), spread, np.float32),
        scores=scores,
        rotation=truth["rotation"].astype(np.float32),
        features=rng.standard_normal((clip.frames, 2, FEATURES), np.float32),
    )
    return replace(clip, detection=seen)
