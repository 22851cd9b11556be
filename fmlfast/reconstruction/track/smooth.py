"""Smooths a head's motion without lag: the most probable path through all frames, looking ahead as well as back.

Each frame's estimate z_t has its information H_t (inverse covariance). The path x minimises

    sum_t (x_t - z_t)' H_t (x_t - z_t) + sum_t sum_g log(1 + |a_tg|^2 / s_g^2),

with a_tg the acceleration of group g of the unknowns (rotation, place, depth, parts of the expression) and s_g its
scale where the head is quiet: Cauchy's cost, of a head that is still and now and then moves as fast as it likes. So a
still head is averaged over many frames, and a nod or a blink is not: its accelerations cost next to nothing. Solved by
reweighting; each round is a block tridiagonal system.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmlfast.reconstruction.track.motion import FrameFit
from fmlfast.rotation import axis_angle_from_rotation, rotation_from_axis_angle

Array = NDArray[np.float64]

TOLERANCE = (6.0, 3.0, 1.5, 1.0, 1.0)
"""Scale of Cauchy's cost, times s, round by round: at first the noise itself would pass for motion."""
QUIET = {"rotation": 0.3, "place": 24.0, "depth": 24.0, "mouth": 8.0, "lids": 20.0, "brows": 3.0, "gaze": 8.0}
"""Scale s of each group's acceleration: radians, mm and expression units a second squared."""
_FIXED = 1e12  # information of frames that are given
_PREFIXES = {"eyeBlink": "lids", "eyeSquint": "lids", "eyeWide": "lids", "eyeLook": "gaze", "brow": "brows"}


@dataclass(frozen=True)
class Path:
    """Pose and expression of T frames."""

    rotation: Tensor  # [T, 3, 3]
    translation: Tensor  # [T, 3] mm
    expression: Tensor  # [T, E]

    def part(self, first: int, last: int | None = None) -> "Path":
        """Selects frames `first` to `last`."""
        span = slice(first, last)
        return Path(self.rotation[span], self.translation[span], self.expression[span])

    @classmethod
    def join(cls, parts: "Sequence[Path]") -> "Path":
        """Concatenates paths."""
        rows = [(part.rotation, part.translation, part.expression) for part in parts]
        return cls(*(torch.cat(columns) for columns in zip(*rows, strict=True)))


def expression_groups(names: Sequence[str]) -> list[str]:
    """Names the group of each expression."""
    return [next((g for start, g in _PREFIXES.items() if name.startswith(start)), "mouth") for name in names]


def smooth_path(
    fit: FrameFit,
    times: Array,  # [T] seconds, rising
    groups: Sequence[str],  # of the expressions
    before: Path | None = None,  # of the two frames before, which stay
    before_times: Sequence[float] = (),
) -> Path:
    """Finds the most probable path through T frames, see the module's text; frames `before` continue smoothly."""
    given = len(before_times)
    z = Path(fit.rotation, fit.translation, fit.expression)
    if before is not None and given:
        z = Path.join([before, z])
        times = np.concatenate([before_times, times])
    if len(times) < 3:
        return z.part(given)
    information = fit.information.double().numpy()
    size = information.shape[1]
    information = np.concatenate([np.tile(_FIXED * np.eye(size), (given, 1, 1)), information])
    members = ["rotation"] * 3 + ["place"] * 2 + ["depth"] + list(groups)
    kinds = sorted(set(members))
    kind = np.array([kinds.index(member) for member in members])
    quiet = np.array([QUIET[name] for name in kinds])[kind]  # [6 + E]
    difference = _second_difference(times)  # [T - 2, 3]
    path = z
    for tolerance in TOLERANCE:
        offset = _difference(path, z)  # [T, 6 + E] from each frame's own estimate
        steps = _difference(path.part(1), path.part(0, -1))  # [T - 1, 6 + E]
        acceleration = difference[:, 2:] * steps[1:] - difference[:, :1] * steps[:-1]
        scaled = (acceleration / quiet) ** 2
        total = np.stack([scaled[:, kind == k].sum(1) for k in range(len(kinds))], 1)  # [T - 2, groups]
        weight = (1 / (1 + total / tolerance**2))[:, kind] / quiet**2  # [T - 2, 6 + E]
        step = _solve(information, offset, weight, difference, acceleration)
        path = _moved(path, step)
    return path.part(given)


def _second_difference(times: Array) -> Array:
    """Returns the factors [T - 2, 3] of three successive values in their acceleration."""
    gap = np.diff(times)
    before, after = gap[:-1], gap[1:]
    mean = (before + after) / 2
    return np.stack([1 / (before * mean), -(1 / before + 1 / after) / mean, 1 / (after * mean)], 1)


def _difference(path: Path, other: Path) -> Array:
    """Computes path - other, [T, 6 + E]: axis-angle from the left, mm, expressions."""
    turn = axis_angle_from_rotation(path.rotation.double() @ other.rotation.double().mT)
    moved = torch.cat([path.translation - other.translation, path.expression - other.expression], 1)
    return torch.cat([turn, moved.double()], 1).numpy()


def _moved(path: Path, step: Array) -> Path:
    change = torch.from_numpy(step).float()
    return Path(
        rotation_from_axis_angle(change[:, :3]) @ path.rotation,
        path.translation + change[:, 3:6],
        (path.expression + change[:, 6:]).clamp(min=0.0),
    )


def _solve(information: Array, offset: Array, weight: Array, factors: Array, acceleration: Array) -> Array:
    """Solves the step [T, n] of one round: a block pentadiagonal system, two frames a block of a tridiagonal one."""
    count, size = offset.shape
    pairs = (count + 1) // 2
    diagonal = np.zeros((2 * pairs, size, size))
    diagonal[:count] = information
    diagonal[count:] = np.eye(size)
    right = np.zeros((2 * pairs, size))
    right[:count] = -np.einsum("tij,tj->ti", information, offset)
    near, far = np.zeros((2 * pairs, size)), np.zeros((2 * pairs, size))  # coupling of t with t + 1 and t + 2
    index = np.arange(size)
    for k in range(3):
        rows = slice(k, count - 2 + k)
        diagonal[rows, index, index] += weight * factors[:, k, None] ** 2
        right[rows] -= weight * factors[:, k, None] * acceleration
    near[: count - 2] += weight * (factors[:, 0] * factors[:, 1])[:, None]
    near[1 : count - 1] += weight * (factors[:, 1] * factors[:, 2])[:, None]
    far[: count - 2] += weight * (factors[:, 0] * factors[:, 2])[:, None]
    blocks = np.zeros((pairs, 2 * size, 2 * size))
    blocks[:, :size, :size], blocks[:, size:, size:] = diagonal[0::2], diagonal[1::2]
    blocks[:, index, size + index] = blocks[:, size + index, index] = near[0::2]
    upper = np.zeros((pairs - 1, 2 * size, 2 * size))  # of a pair with the next one
    upper[:, index, index] = far[0:-2:2]
    upper[:, size + index, index] = near[1:-1:2]
    upper[:, size + index, size + index] = far[1:-1:2]
    right = right.reshape(pairs, 2 * size)
    solved, pushed = np.zeros_like(upper), np.zeros_like(right)
    block, vector = blocks[0], right[0]
    for pair in range(pairs):
        if pair:
            block = blocks[pair] - upper[pair - 1].T @ solved[pair - 1]
            vector = right[pair] - upper[pair - 1].T @ pushed[pair - 1]
        if pair < pairs - 1:
            both = np.linalg.solve(block, np.concatenate([upper[pair], vector[:, None]], 1))
            solved[pair], pushed[pair] = both[:, :-1], both[:, -1]
        else:
            pushed[pair] = np.linalg.solve(block, vector)
    for pair in range(pairs - 2, -1, -1):
        pushed[pair] -= solved[pair] @ pushed[pair + 1]
    return pushed.reshape(-1, size)[:count]
