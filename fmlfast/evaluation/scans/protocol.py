"""Measures scan-to-mesh errors by the protocol of the NoW challenge: align landmarks, register, measure distances."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fmlfast.common.atomic import atomic_path
from fmlfast.evaluation.scans.alignment import MeshToScan, align_landmarks, register_robust
from fmlfast.evaluation.scans.closest_point import ClosestPoint
from fmlfast.evaluation.scans.datasets import Person, Scan, ScanFile, read_scans
from fmlfast.evaluation.scans.face_regions import face_parts
from fmlfast.evaluation.scans.table import ScanErrors, ScanErrorTable, draw_curves
from fmlfast.evaluation.table import MEAN_FACE, rounded
from fmlfast.model.fml import FML
from fmlfast.reconstruction.pipeline import reconstruct
from fmlfast.reconstruction.result import Reconstruction
from fmlfast.template.face_template import FaceTemplate

LANDMARK_MISFIT = 0.17  # of the landmarks' radius; two faces differ by up to 0.11, mirrored orders by 0.20 or more
MIN_POINTS = 10
DISC = 1.4  # NoW's face: this many times the mean of the outer eyes' distance and the nose's length
DISC_LANDMARKS = (36, 39, 42, 45, 33)


def scan_to_mesh(
    scan_points: ArrayLike,  # [P, 3]
    vertices: ArrayLike,  # [V, 3]
    triangles: ArrayLike,  # [T, 3]
    scan_landmarks: ArrayLike,  # [K, 3]
    mesh_landmarks: ArrayLike,  # [K, 3]
    measured: ArrayLike | None = None,  # [P] bool
) -> ScanErrors:
    """Aligns any mesh to a scan and measures the distance of every scan point to the mesh.

    The mesh is aligned by the similarity of their K >= 3 landmarks, then registered by `register_robust`. Registration
    and errors use only the points that are `measured` (None: all); `face_disc` gives those that NoW measures. Distances
    to the closest point of the mesh are exact, and in the scan's unit, whatever the mesh's is.

    Raises ValueError for malformed arrays, no points to measure, and landmarks that do not fit each other.
    """
    points = np.asarray(scan_points, np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
        raise ValueError(f"scan points must be finite numbers [P, 3], got {list(points.shape)}")
    if measured is not None:
        mask = np.asarray(measured)
        if mask.dtype != bool or mask.shape != (len(points),):
            raise ValueError(f"measured must be {len(points)} booleans, got {mask.dtype} {list(mask.shape)}")
        points = points[mask]
    _check_enough(len(points))
    start = _checked_start(np.asarray(mesh_landmarks, float), np.asarray(scan_landmarks, float))
    return _measure(points, ClosestPoint(vertices, triangles), start)


def face_disc(scan: Scan) -> NDArray[np.bool_]:
    """Selects the scan points [P] that NoW measures: those in a ball around the face's centre.

    The centre lies 30% of the way from the nose's base to the middle between the inner eye corners; the radius is 1.4
    times the mean of the outer eye corners' distance and that way's length (as NoW's published evaluation has it).
    """
    outer_right, inner_right, inner_left, outer_left, base = (scan.landmark(number) for number in DISC_LANDMARKS)
    bridge = (inner_right + inner_left) / 2
    center = base + 0.3 * (bridge - base)
    radius = DISC * (np.linalg.norm(outer_right - outer_left) + np.linalg.norm(bridge - base)) / 2
    return np.linalg.norm(scan.points - center, axis=1) <= radius


def evaluate_scans(run: str | Path, folder: str | Path, *, refine: int, layout: str = "auto") -> dict[str, Any]:
    """Evaluates the model of a run folder against a set of scans; writes scans.json and scans.png into it.

    Args:
        run: run folder of a trained model.
        folder: the scans with their photos, in one of the layouts of `fmlfast.evaluation.scans.datasets`.
        refine: steps of refinement in the last row.
        layout: "auto", "folder", "now", "bu3dfe" or "facewarehouse".

    Rows: `mean_face` (the template), `frames_1` (each photo alone), `frames_N` (all photos of a person jointly, N that
    of the person with most) and `frames_N_refined`. Metrics, each as median, mean and standard deviation over all
    scan points of all photos, as NoW counts them: `posed_*` compare the geometry with expression with the scan of the
    same moment, `neutral_*` the geometry without with the person's neutral scan, once for every photo.

    `ratios` holds each row over the mean face, `spread` the standard errors over people, `parts` the mean and median by
    part of the face, `curves` the shares of points below the distances in `curves["mm"]`, `person_means` each person's
    mean, `failed` the photos that could not be reconstructed with the reason, and `not_converged` how many alignments
    were ended by the limit of iterations.

    Raises ValueError for folders that are no scan set, or a run that is none, and when no photo could be used.
    """
    run = Path(run)
    template = FML.load(run).template
    people = read_scans(folder, layout)
    for file in (file for person in people for file in person.scans):  # errors are raised before the slow part
        _check_scan(file, template)
    errors, failed = ScanErrorTable(), {}
    longest = max(len(person.photos) for person in people)
    for person in people:
        failed |= _measure_person(errors, person, run, refine, f"frames_{longest}")
    if not errors.people:
        raise ValueError(f"{folder}: no photo could be reconstructed; the first reason: {next(iter(failed.values()))}")
    table = errors.table()
    table |= {"people": len(errors.people), "photos": sum(len(person.photos) for person in people) - len(failed)}
    table |= {"layout": people[0].layout, "refine_steps": refine, "failed": failed}
    table = rounded(table)
    with atomic_path(run / "scans.json") as path:
        path.write_text(json.dumps(table, indent=2) + "\n")
    draw_curves(run / "scans.png", table)
    return table


def _measure(points: NDArray[np.float64], mesh: ClosestPoint, start: MeshToScan) -> ScanErrors:
    found = register_robust(mesh, points, start)
    closest = mesh(found.alignment.undo(points))
    corners = mesh.corners[closest.triangle]  # [N, 3, 3]
    corner = np.linalg.norm(corners - closest.point[:, None], axis=2).argmin(1)
    nearest = mesh.triangles[closest.triangle, corner]
    return ScanErrors(found.alignment.scale * closest.distance, nearest, found.alignment, found.converged)


def _check_enough(points: int) -> None:
    if points < MIN_POINTS:
        raise ValueError(
            f"{points} scan points to measure are too few; do scan and landmarks share one frame and unit?"
        )


def _checked_start(mesh: NDArray[np.float64], scan: NDArray[np.float64]) -> MeshToScan:
    """Aligns landmarks [K, 3] by a similarity; raises ValueError where two faces cannot differ so much."""
    start = align_landmarks(mesh, scan)
    misfit = np.sqrt(((start.apply(mesh) - scan) ** 2).sum(1).mean())
    radius = np.sqrt(((scan - scan.mean(0)) ** 2).sum(1).mean())
    if misfit > LANDMARK_MISFIT * radius:
        raise ValueError(
            f"the landmarks of scan and mesh do not fit each other (they miss by {misfit / radius:.0%} of their "
            "radius); check their order, which begins at the outer corner of the subject's right eye"
        )
    return start


def _check_scan(file: ScanFile, template: FaceTemplate) -> None:
    scan = file.read()
    try:
        _checked_start(_landmarks(template, template.vertices, scan), scan.landmarks)
        _check_enough(int(face_disc(scan).sum()))
    except ValueError as error:
        raise ValueError(f"{file.landmarks}: {error}") from error


def _landmarks(template: FaceTemplate, vertices: Tensor, scan: Scan) -> NDArray[np.float64]:
    """Returns the landmarks [K, 3] of vertices [V, 3] whose numbers the scan has."""
    return template.landmarks(vertices)[list(scan.numbers)].double().numpy()


def _measure_person(errors: ScanErrorTable, person: Person, run: Path, refine: int, jointly: str) -> dict[str, str]:
    """Reconstructs one person and adds all errors; returns the failed photos with their reasons."""
    alone: dict[int, Reconstruction] = {}
    failed: dict[str, str] = {}
    for index, photo in enumerate(person.photos):
        try:
            alone[index] = reconstruct([photo.path], run, refine=0)
        except ValueError as error:
            failed[str(photo.path)] = " ".join(str(error).split())
    if not alone:
        return failed
    paths = [person.photos[index].path for index in alone]
    together: dict[str, Reconstruction] = {}
    if jointly != "frames_1":
        together[jointly] = reconstruct(paths, run, refine=0)
    if refine > 0:
        together[f"{jointly}_refined"] = reconstruct(paths, run, refine=refine)
    template = next(iter(alone.values())).template
    ruler = _Ruler(template)
    scans = [person.photos[index].scan for index in alone]
    for place, (result, file) in enumerate(zip(alone.values(), scans, strict=True)):
        if file is not None:
            scan = file.read()
            shapes = {MEAN_FACE: template.vertices, "frames_1": result.vertices[0]}
            shapes |= {row: joint.vertices[place] for row, joint in together.items()}
            for row, vertices in shapes.items():
                errors.add(row, "posed", person.name, *ruler(vertices, scan))
    if person.neutral is not None:
        scan = person.neutral.read()
        for result in alone.values():
            errors.add("frames_1", "neutral", person.name, *ruler(result.neutral, scan))
        shared = {MEAN_FACE: template.vertices} | {row: joint.neutral for row, joint in together.items()}
        for row, vertices in shared.items():
            errors.add(row, "neutral", person.name, *ruler(vertices, scan), times=len(alone))
    return failed


class _Ruler:
    """Measures shapes of one template against scans."""

    def __init__(self, template: FaceTemplate) -> None:
        self.template = template
        self.parts = face_parts(template)
        hidden = template.mouth_and_lashes[template.triangles.long()].all(1)  # what no scan shows is not measured
        self.triangles = template.triangles[~hidden].numpy()

    def __call__(self, vertices: Tensor, scan: Scan) -> tuple[ScanErrors, NDArray[np.int64]]:
        """Measures vertices [V, 3] against a scan; returns N errors and the part of the face [N] of each."""
        start = align_landmarks(_landmarks(self.template, vertices, scan), scan.landmarks)
        points = scan.points[face_disc(scan)]
        errors = _measure(points, ClosestPoint(vertices.numpy(), self.triangles), start)
        return errors, self.parts[errors.nearest]
