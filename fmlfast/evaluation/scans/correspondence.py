"""Finds which points of a mesh and a scan correspond, by non-rigid registration guided by landmarks.

Rigid registration pairs each scan point with the closest point of the mesh, whatever that is: lips too wide or brows
too low cost next to nothing where the surface is as high. Here the mesh is first deformed into the scan, landmarks onto
landmarks; then the distance is measured between a scan point and the point of the undeformed mesh that came to lie on
it.
Why: Sariyanidi et al., 3D Face Reconstruction Error Decomposed, arXiv 2505.18025.
"""

import numpy as np
from numpy.typing import NDArray

from fmlfast.common.extras import require
from fmlfast.evaluation.scans.alignment import TUKEY, MeshToScan, align_landmarks
from fmlfast.evaluation.scans.closest_point import Closest, ClosestPoint, barycentrics
from fmlfast.evaluation.scans.datasets import Scan
from fmlfast.evaluation.scans.face_regions import OUTSIDE
from fmlfast.evaluation.scans.table import ScanErrors
from fmlfast.template.face_template import FaceTemplate

Points = NDArray[np.float64]  # [P, 3]
MAX_POINTS = 2000  # of the scan that registration uses, drawn once with a fixed seed
REACH = 3.0  # mm from the deformed mesh, within which a scan point has a counterpart
LANDMARK_SIGMA = 1.0  # mm, how exactly landmarks are taken
SURFACE_SIGMAS = (20.0, 8.0, 3.0, 1.0, 0.5, 0.5)  # mm, of one scan point in each step: from stiff to soft
LENGTHS, STRENGTHS = (12.0, 36.0, 100.0), (3.0, 4.0, 10.0)  # mm: how far deformations reach, and how large they are
SYMMETRY = 0.9  # correlation of a deformation with its mirror image's
_NUGGET = 1e-4  # of the variance, independent at each node: keeps the covariance invertible
_SIGMA_RANGE = (0.2, 10.0)  # mm, of the scale of the robust weights


class Correspondence:
    """Registers meshes of one template non-rigidly to scans, and measures distances of corresponding points.

    Deformations are displacements of the template's graph nodes, skinned to the vertices, with a Gaussian process
    prior: squared-exponential kernels of three length scales, correlated across the face's middle plane (Luethi et al.,
    Gaussian Process Morphable Models, PAMI 40(8), 2018). They minimise the negative log posterior of scan points
    (point to plane, Tukey weights) and landmarks by Gauss-Newton, while the scan points' standard deviation is lowered
    in steps (annealed stiffness, as in Amberg et al., Optimal Step Nonrigid ICP, CVPR 2007). All is float64 and
    deterministic.
    """

    def __init__(
        self,
        template: FaceTemplate,
        triangles: NDArray[np.int32],  # [T, 3] those that scans can show
        parts: NDArray[np.int64],  # [V] of `face_parts`
    ) -> None:
        sparse = require("scipy.sparse", "eval")
        self._solve = require("scipy.linalg", "eval").solve
        self._triangles = triangles.astype(np.int64)
        self._inside = parts != OUTSIDE
        count, nodes = len(template.vertices), len(template.node_vertices)
        rows = np.repeat(np.arange(count), template.skin_indices.shape[1])
        entries = template.skin_weights.double().numpy().ravel(), (rows, template.skin_indices.numpy().ravel())
        self._skin = sparse.csr_matrix(entries, shape=(count, nodes))  # [V, G]
        corners = template.triangles.long()[template.landmark_triangles].numpy()
        self._landmarks = _interpolation(template.landmark_barycentrics.double().numpy(), corners, count)  # [68, V]
        self._precision = _prior_precision(template.nodes.double().numpy())

    def __call__(
        self,
        vertices: Points,  # [V, 3]
        scan: Scan,
        measured: Points,  # [P, 3] the points of the scan to measure
        start: MeshToScan,
    ) -> ScanErrors:
        """Measures the distances of scan points to the corresponding points of a mesh, after their best similarity.

        Only points of the template's face region within REACH of the deformed mesh have counterparts and are measured:
        N <= P distances in mm. `start` is the rigid alignment of the mesh to the scan. Raises ValueError where fewer
        than 3 points have a counterpart.
        """
        deformed = self.register(vertices, scan, measured, start)
        closest = ClosestPoint(deformed, self._triangles)(start.undo(measured))
        corners = self._triangles[closest.triangle]  # [P, 3]
        share = _shares(closest.point, deformed[corners])
        nearest = np.take_along_axis(corners, share.argmax(1)[:, None], 1)[:, 0]
        paired = self._inside[nearest] & (start.scale * closest.distance <= REACH)
        if paired.sum() < 3:
            raise ValueError(f"no part of the scan could be registered: all of it is {REACH:g} mm or more off the face")
        counterparts = (share[:, :, None] * vertices[corners]).sum(1)[paired]
        alignment = align_landmarks(counterparts, measured[paired])
        distances = np.linalg.norm(alignment.apply(counterparts) - measured[paired], axis=1)
        return ScanErrors(distances, nearest[paired], alignment, True)

    def register(
        self,
        vertices: Points,  # [V, 3]
        scan: Scan,
        measured: Points,  # [P, 3]
        start: MeshToScan,
    ) -> Points:  # [V, 3]
        """Deforms a mesh into a scan that is aligned to it by `start`; the result is in the mesh's frame."""
        if len(measured) > MAX_POINTS:
            chosen = np.random.default_rng(0).choice(len(measured), MAX_POINTS, replace=False)
            measured = measured[np.sort(chosen)]
        points, nodes = start.undo(measured), self._skin.shape[1]
        marked = self._landmarks[list(scan.numbers)]  # [K, V]
        pull = (marked @ self._skin).toarray() / LANDMARK_SIGMA  # [K, G]
        gap = (start.undo(scan.landmarks) - marked @ vertices) / LANDMARK_SIGMA  # [K, 3]
        deformed = vertices
        for sigma in SURFACE_SIGMAS:
            mesh = ClosestPoint(deformed, self._triangles)
            system, right = self._surface_terms(vertices, points, mesh, mesh(points), sigma)
            for axis in range(3):
                block = slice(axis * nodes, (axis + 1) * nodes)
                system[block, block] += pull.T @ pull + self._precision[axis]
                right[block] += pull.T @ gap[:, axis]
            moved = self._solve(system, right, assume_a="pos", overwrite_a=True)
            deformed = vertices + self._skin @ moved.reshape(3, nodes).T
        return deformed

    def _surface_terms(
        self,
        vertices: Points,  # [V, 3]
        points: Points,  # [P, 3]
        mesh: ClosestPoint,
        closest: Closest,
        sigma: float,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:  # [3G, 3G], [3G], axis-major
        """Computes the normal equations of the scan points' distances to the planes of their closest triangles."""
        sparse = require("scipy.sparse", "eval")
        normals = mesh.normals[closest.triangle]
        corners = self._triangles[closest.triangle]
        place = _interpolation(_shares(closest.point, mesh.corners[closest.triangle]), corners, len(vertices))
        by_node = place @ self._skin  # [P, G]
        design = sparse.hstack([sparse.diags(normals[:, axis]) @ by_node for axis in range(3)]).tocsr()  # [P, 3G]
        scale = float(np.clip(1.4826 * np.median(closest.distance), *_SIGMA_RANGE))
        weights = np.clip(1 - (closest.distance / (TUKEY * scale)) ** 2, 0, None) ** 2 / sigma**2
        gaps = (normals * (points - place @ vertices)).sum(1)
        return (design.T @ sparse.diags(weights) @ design).toarray(), design.T @ (weights * gaps)


def _shares(points: Points, corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Computes barycentric coordinates [P, 3] in 0..1, of slivers too, of points in their triangles [P, 3, 3]."""
    shares = np.clip(barycentrics(points, corners), 0, 1)
    return shares / shares.sum(1, keepdims=True)


def _interpolation(
    shares: NDArray[np.float64],  # [P, 3] barycentric
    corners: NDArray[np.integer],  # [P, 3] vertex ids
    count: int,  # V
):  # sparse [P, V]
    """Builds the matrix that interpolates values of the vertices at points in triangles."""
    rows = np.repeat(np.arange(len(shares)), 3)
    return require("scipy.sparse", "eval").csr_matrix((shares.ravel(), (rows, corners.ravel())), (len(shares), count))


def _prior_precision(
    nodes: Points,  # [G, 3] mm, model frame
) -> list[NDArray[np.float64]]:  # of 3 [G, G], 1/mm2
    """Inverts the covariance of the nodes' displacements along each axis."""

    def kernel(others: Points) -> NDArray[np.float64]:
        squared = ((nodes[:, None] - others[None]) ** 2).sum(2)
        scales = zip(LENGTHS, STRENGTHS, strict=True)
        return np.sum([strength**2 * np.exp(-0.5 * squared / length**2) for length, strength in scales], axis=0)

    near, across = kernel(nodes), kernel(nodes * np.array([-1.0, 1.0, 1.0]))
    found = []
    for sign in (-1, 1, 1):  # a mirror turns the first axis around
        covariance = (near + sign * SYMMETRY * across) / (1 + SYMMETRY)
        found.append(np.linalg.inv(covariance + _NUGGET * covariance.diagonal().mean() * np.eye(len(nodes))))
    return found
