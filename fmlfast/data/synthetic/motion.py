"""Generates smooth random motion of expression and head pose for short clips."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

YAW_LIMIT, PITCH_LIMIT, ROLL_LIMIT = 45.0, 25.0, 20.0  # degrees
_EYE_TURN = 30.0  # degrees that an eyeLook unit turns the eye by

Weights = dict[str, float]

# Facial actions: how often they are drawn, and weights of ARKit-style units; a star stands for Left and Right. Smiles
# and open mouths are frequent, as in videos and photos of people (the detector's scores on 21 real clips).
_ACTIONS: tuple[tuple[float, Weights], ...] = (
    (3.0, {"mouthSmile*": 0.9, "cheekSquint*": 0.5, "eyeSquint*": 0.3, "mouthDimple*": 0.4}),
    (4.0, {"mouthSmile*": 0.9, "cheekSquint*": 0.6, "jawOpen": 0.12, "mouthUpperUp*": 0.4, "mouthLowerDown*": 0.2}),
    (2.0, {"mouthSmile*": 0.9, "cheekSquint*": 0.7, "eyeSquint*": 0.5, "jawOpen": 0.5, "mouthUpperUp*": 0.5}),
    (2.0, {"browInnerUp": 0.8, "browOuterUp*": 0.8, "eyeWide*": 0.6, "jawOpen": 0.35}),
    (1.0, {"browDown*": 0.9, "eyeSquint*": 0.5, "noseSneer*": 0.3, "mouthPress*": 0.5}),
    (1.0, {"browInnerUp": 0.8, "mouthFrown*": 0.8, "mouthShrugLower": 0.5}),
    (1.0, {"noseSneer*": 0.8, "mouthUpperUp*": 0.6, "browDown*": 0.4}),
    (2.0, {"jawOpen": 0.9}),
    (1.0, {"jawOpen": 0.4, "mouthUpperUp*": 0.6, "mouthLowerDown*": 0.6}),
    (1.5, {"mouthPucker": 0.9}),
    (1.0, {"mouthFunnel": 0.8, "jawOpen": 0.25}),
    (0.7, {"mouthFrown*": 0.8, "mouthShrugLower": 0.4, "mouthShrugUpper": 0.3}),
    (0.5, {"cheekPuff": 0.9, "mouthPress*": 0.3}),
    (0.7, {"mouthStretch*": 0.8, "mouthLowerDown*": 0.4}),
    (1.0, {"mouthRollLower": 0.7, "mouthRollUpper": 0.7, "mouthPress*": 0.4}),
    (0.5, {"jawForward": 0.7}),
    (0.5, {"jawLeft": 0.6, "mouthLeft": 0.5}),
    (0.5, {"jawRight": 0.6, "mouthRight": 0.5}),
    (0.5, {"mouthLeft": 0.6, "mouthDimpleLeft": 0.4}),
    (0.5, {"mouthRight": 0.6, "mouthDimpleRight": 0.4}),
    (1.0, {"browDown*": 0.8}),
    (2.0, {"browInnerUp": 0.5, "browOuterUp*": 0.9}),
    (1.5, {"eyeSquint*": 0.8, "cheekSquint*": 0.5}),
    (1.5, {"eyeWide*": 0.8}),
    (1.0, {"mouthDimple*": 0.8, "mouthPress*": 0.4}),
)
_SHARES = np.array([often for often, _ in _ACTIONS]) / sum(often for often, _ in _ACTIONS)
# Mouth shapes of speech, each with its own random curve in time.
_VISEMES: tuple[Weights, ...] = (
    {"jawOpen": 0.55, "mouthLowerDown*": 0.25},
    {"mouthFunnel": 0.6},
    {"mouthPucker": 0.6},
    {"mouthStretch*": 0.4, "mouthUpperUp*": 0.25},
    {"mouthRollLower": 0.5, "mouthPress*": 0.3},
)
_SIDES = ("Left", "Right")


@dataclass(frozen=True)
class HeadMotion:
    """Expression and head pose at the M times of one clip."""

    times: NDArray[np.float32]  # [M] seconds, ascending
    expression: NDArray[np.float32]  # [M, E] in 0..1
    angles: NDArray[np.floating]  # [M, 3] yaw, pitch, roll in degrees
    drift: NDArray[np.floating]  # [M, 3] in about -1..1: motion of the head along the camera's axes


def rotation_from_angles(angles: NDArray[np.floating]) -> NDArray[np.float64]:
    """Converts yaw, pitch, roll [..., 3] in degrees to rotations [..., 3, 3], model to OpenCV camera.

    R = diag(1, -1, -1) Rz(roll) Rx(pitch) Ry(yaw): zero is a frontal face, yaw turns it about its own vertical axis.
    """
    cos, sin = np.cos(np.radians(angles)), np.sin(np.radians(angles))
    one, nil = np.ones_like(cos[..., 0]), np.zeros_like(cos[..., 0])
    (cy, cx, cz), (sy, sx, sz) = np.moveaxis(cos, -1, 0), np.moveaxis(sin, -1, 0)

    def matrix(*rows: NDArray[np.floating]) -> NDArray[np.floating]:
        return np.stack(rows, axis=-1).reshape(*one.shape, 3, 3)

    yaw = matrix(cy, nil, sy, nil, one, nil, -sy, nil, cy)
    pitch = matrix(one, nil, nil, nil, cx, -sx, nil, sx, cx)
    roll = matrix(cz, -sz, nil, sz, cz, nil, nil, nil, one)
    return np.diag([1.0, -1.0, -1.0]) @ roll @ pitch @ yaw


def _wave(rng: np.random.Generator, times: NDArray[np.floating], hertz: float) -> NDArray[np.floating]:
    """Draws a smooth random curve [M] in -1..1, the sum of two oscillations near `hertz`."""
    phase, rate = rng.uniform(0.0, 2.0 * np.pi, 2), hertz * rng.uniform(0.6, 1.5, 2)
    return 0.65 * np.sin(2 * np.pi * rate[0] * times + phase[0]) + 0.35 * np.sin(3.3 * rate[1] * times + phase[1])


def _pose(rng: np.random.Generator, times: NDArray[np.floating]) -> NDArray[np.floating]:
    """Draws angles [M, 3] that swing around a mean near the front, within their limits (tanh)."""
    limits = np.array([YAW_LIMIT, PITCH_LIMIT, ROLL_LIMIT])
    mean = rng.normal(0.0, [14.0, 6.5, 4.5])
    swing = rng.uniform([14.0, 5.0, 3.0], [60.0, 24.0, 16.0])
    waves = np.stack([_wave(rng, times, 0.35) for _ in range(3)], axis=-1)  # [M, 3]
    return limits * np.tanh((mean + swing * waves) / limits)


class _Units:
    """Adds named weights, with a star for both sides, to expression rows; units the template lacks are skipped."""

    def __init__(self, names: tuple[str, ...], count: int) -> None:
        self.column = {name: index for index, name in enumerate(names)}
        self.rows = np.zeros((count, len(names)))

    def add(self, weights: Weights, level: NDArray[np.floating], sides: tuple[float, float] = (1.0, 1.0)) -> None:
        for pattern, weight in weights.items():
            if pattern.endswith("*"):
                for side, share in zip(_SIDES, sides, strict=True):
                    self._add(pattern[:-1] + side, weight * share * level)
            else:
                self._add(pattern, weight * level)

    def _add(self, name: str, values: NDArray[np.floating]) -> None:
        if name in self.column:
            self.rows[:, self.column[name]] += values

    def get(self, name: str) -> NDArray[np.floating]:
        return self.rows[:, self.column[name]] if name in self.column else np.zeros(len(self.rows))


def _sides(rng: np.random.Generator) -> tuple[float, float]:
    """Draws the strengths of the left and right side: nearly equal, or sometimes one side only."""
    if rng.random() < 0.12:
        return (1.0, 0.15) if rng.random() < 0.5 else (0.15, 1.0)
    left, right = np.clip(rng.normal(1.0, 0.1, 2), 0.7, 1.2)
    return float(left), float(right)


def _gaze(rng: np.random.Generator, times: NDArray[np.floating], angles: NDArray[np.floating], units: _Units) -> None:
    """Adds gaze: both eyes move together, and mostly look at the camera against the head's rotation."""
    follow = rng.uniform(0.6, 1.0) if rng.random() < 0.6 else 0.0
    spread = 0.12 if follow else 0.55
    left = -follow * angles[:, 0] / _EYE_TURN + spread * _wave(rng, times, 0.5)  # > 0: towards the subject's left
    up = follow * angles[:, 1] / _EYE_TURN + 0.7 * spread * _wave(rng, times, 0.4)
    units.add({"eyeLookOutLeft": 1.0, "eyeLookInRight": 1.0}, np.clip(left, 0.0, 1.0))
    units.add({"eyeLookInLeft": 1.0, "eyeLookOutRight": 1.0}, np.clip(-left, 0.0, 1.0))
    units.add({"eyeLookUp*": 1.0}, np.clip(up, 0.0, 0.8))
    units.add({"eyeLookDown*": 1.0}, np.clip(-up, 0.0, 0.8))


def _expression(
    rng: np.random.Generator, times: NDArray[np.floating], angles: NDArray[np.floating], names: tuple[str, ...]
) -> NDArray[np.floating]:
    """Draws expressions [M, E]: up to three actions that rise and fall, sometimes speech, gaze, and blinks."""
    units = _Units(names, len(times))
    count = rng.choice([0, 1, 2, 3], p=[0.08, 0.42, 0.36, 0.14])
    chosen = rng.choice(len(_ACTIONS), count, replace=False, p=_SHARES)
    for action in chosen:
        swell = np.clip(0.5 + 0.75 * _wave(rng, times, 0.3), 0.0, 1.0)
        units.add(_ACTIONS[action][1], rng.uniform(0.35, 1.1) * swell, _sides(rng))
    if rng.random() < 0.45:
        loudness = rng.uniform(0.3, 1.0)
        for viseme in _VISEMES:
            units.add(viseme, loudness * np.clip(_wave(rng, times, 1.4), 0.0, 1.0), _sides(rng))
    _gaze(rng, times, angles, units)
    closed = rng.random(len(times)) < 0.12
    lids = np.minimum(rng.uniform(0.4, 1.4, len(times)), 1.0)  # most closed eyes are closed entirely
    for name, column in units.column.items():
        if name.startswith(("eyeWide", "eyeSquint", "eyeLook")):  # they would open closed lids, or cross them
            units.rows[closed, column] *= 1.0 - lids[closed]
    units.add({"eyeBlink*": 1.0}, np.where(closed, lids, rng.uniform(0.0, 0.12)))
    # Sometimes the lips are closed over an open jaw.
    if rng.random() < 0.10:
        units.add({"mouthClose": rng.uniform(0.3, 0.9)}, np.minimum(units.get("jawOpen"), 0.5))
    rows = np.clip(units.rows, 0.0, 1.0)
    return np.where(rows < 0.01, 0.0, rows)


def random_head_motion(rng: np.random.Generator, frames: int, expression_names: tuple[str, ...]) -> HeadMotion:
    """Draws the motion of a clip of two to six seconds at `frames` times spread over it."""
    duration = rng.uniform(2.0, 6.0)
    times = (np.arange(frames) + rng.uniform(0.1, 0.9, frames)) * duration / frames
    angles = _pose(rng, times)
    expression = _expression(rng, times, angles, expression_names)
    drift = np.stack([_wave(rng, times, 0.3) for _ in range(3)], axis=-1)
    return HeadMotion(times.astype(np.float32), expression.astype(np.float32), angles, drift)
