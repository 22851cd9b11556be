"""Aligns a mesh to a scan: a similarity from landmarks (Umeyama), then robust point-to-surface registration (ICP)."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from fmlfast.evaluation.scans.closest_point import Closest, ClosestPoint
from fmlfast.metrics import similarity_align

Points = NDArray[np.float64]  # [P, 3]
MAX_POINTS = 2000  # of the scan that registration uses, drawn once with a fixed seed
MAX_ITERATIONS = 100
TOLERANCE = 1e-6  # registration ends when a step moves the mesh by less than this share of the scan's radius
TUKEY = 4.685  # standard deviations at which a point's weight reaches zero: 95% efficient for Gaussian noise
_SIGMA_FLOOR = 1e-9  # of the scan's radius, where scan and mesh agree exactly


@dataclass(frozen=True)
class MeshToScan:
    """Similarity x -> scale * rotation @ x + translation, from a mesh's frame to a scan's."""

    scale: float
    rotation: NDArray[np.float64]  # [3, 3]
    translation: NDArray[np.float64]  # [3]

    def apply(self, points: Points) -> Points:
        """Maps points [P, 3] of the mesh to the scan's frame and unit."""
        return self.scale * points @ self.rotation.T + self.translation

    def undo(self, points: Points) -> Points:
        """Maps points [P, 3] of the scan to the mesh's frame and unit."""
        return (points - self.translation) @ self.rotation / self.scale


@dataclass(frozen=True)
class Registration:
    """Result of `register_robust`."""

    alignment: MeshToScan
    iterations: int
    converged: bool  # False where MAX_ITERATIONS ended it


def align_landmarks(mesh_landmarks: ArrayLike, scan_landmarks: ArrayLike) -> MeshToScan:
    """Fits the least-squares similarity between corresponding points [K, 3], K >= 3.

    Source: Umeyama, PAMI 13(4), 1991. Raises ValueError for other shapes and for points without extent.
    """
    source, target = (np.asarray(points, np.float64) for points in (mesh_landmarks, scan_landmarks))
    if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 3 or len(source) < 3:
        raise ValueError(
            f"landmarks must be two [K, 3] arrays of the same K >= 3 points, got {list(source.shape)} of the mesh and "
            f"{list(target.shape)} of the scan"
        )
    if _on_a_line(source) or _on_a_line(target):
        raise ValueError("the landmarks lie on a line or coincide; they must span a plane to align a mesh")
    found = similarity_align(torch.from_numpy(source)[None], torch.from_numpy(target)[None], torch.ones(len(source)))
    return MeshToScan(float(found.scale[0]), found.rotation[0].numpy(), found.translation[0].numpy())


def _on_a_line(points: Points) -> bool:
    """Whether points [K, 3] are nowhere farther from a line than they are rounded to, in files too, or coincide."""
    along, across, _ = np.linalg.svd(points - points.mean(0), compute_uv=False)
    return bool(across <= max(1e-4 * along, 1e-12 * np.linalg.norm(points)))


def register_robust(mesh: ClosestPoint, scan: Points, start: MeshToScan) -> Registration:
    """Registers a mesh to scan points [P, 3] by robust point-to-surface ICP with scale, from an approximate alignment.

    Minimises the sum of Tukey's robust function (Tukey biweight) of the distances from scan points to their closest
    points on the mesh, in the scan's unit, by Levenberg-Marquardt over rotation, scale and translation (IRLS); closest
    points are found anew in every step. The robust function's scale is 1.4826 times the median distance, so that up to
    half of the points may be outliers. No randomness beyond a subset of at most MAX_POINTS points, drawn with a fixed
    seed.
    """
    if len(scan) > MAX_POINTS:
        scan = scan[np.sort(np.random.default_rng(0).choice(len(scan), MAX_POINTS, replace=False))]
    center = scan.mean(0)
    radius = float(np.sqrt(((scan - center) ** 2).sum(1).mean()))
    normals = mesh.normals
    current, damping = start, 1e-3
    closest = mesh(current.undo(scan))
    for iteration in range(1, MAX_ITERATIONS + 1):
        distance = current.scale * closest.distance
        sigma = max(1.4826 * float(np.median(distance)), _SIGMA_FLOOR * radius)
        design = _design(current, closest, normals, scan, center, radius)
        weights = np.clip(1 - (distance / (TUKEY * sigma)) ** 2, 0, None) ** 2
        system, right = design.T @ (weights[:, None] * design), design.T @ (weights * distance)
        before = _tukey(distance, sigma)
        moved = True
        while moved:
            step = np.linalg.solve(system + damping * (np.trace(system) / 7 + 1e-300) * np.eye(7), right)
            trial = _stepped(current, step, center, radius)
            found = mesh(trial.undo(scan))
            moved = float(np.abs(step).max()) >= TOLERANCE * radius
            if _tukey(trial.scale * found.distance, sigma) <= before:
                current, closest, damping = trial, found, max(0.1 * damping, 1e-12)
                break
            damping *= 10
        if not moved:
            return Registration(current, iteration, True)
    return Registration(current, MAX_ITERATIONS, False)


def _design(
    current: MeshToScan,
    closest: Closest,
    normals: Points,  # [T, 3]
    scan: Points,  # [P, 3]
    center: NDArray[np.float64],  # [3]
    radius: float,
) -> NDArray[np.float64]:
    """Computes the negative Jacobian [P, 7] of the distances by rotation (3), scale (1) and translation (3).

    Steps of rotation and scale are lengths at `radius`, so that all seven have the scan's unit.
    """
    on_mesh = current.apply(closest.point)
    towards = scan - on_mesh
    length = np.linalg.norm(towards, axis=1, keepdims=True)
    touching = length <= 1e-9 * radius  # no direction left but the surface's own
    towards = np.where(touching, normals[closest.triangle] @ current.rotation.T, towards / np.maximum(length, 1e-300))
    arm = (on_mesh - center) / radius
    return np.concatenate([np.cross(arm, towards), (arm * towards).sum(1, keepdims=True), towards], 1)


def _stepped(
    current: MeshToScan,
    step: NDArray[np.float64],  # [7]
    center: NDArray[np.float64],  # [3]
    radius: float,
) -> MeshToScan:
    turn, growth = step[:3] / radius, float(np.exp(step[3] / radius))
    x, y, z = turn
    generator = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    rotation = torch.linalg.matrix_exp(generator).numpy()
    translation = growth * rotation @ (current.translation - center) + center + step[4:]
    return MeshToScan(current.scale * growth, rotation @ current.rotation, translation)


def _tukey(distance: NDArray[np.float64], sigma: float) -> float:
    """Sums Tukey's robust function of the distances, in units of its maximum."""
    share = np.minimum(distance / (TUKEY * sigma), 1.0) ** 2
    return float((1 - (1 - share) ** 3).sum())
