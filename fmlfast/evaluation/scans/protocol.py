"""Measures scan-to-mesh errors by the protocol of the NoW challenge: align landmarks, register, measure distances."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fmlfast.common.locks import check_writable
from fmlfast.evaluation.scans.alignment import MeshToScan, align_landmarks, register_robust
from fmlfast.evaluation.scans.closest_point import ClosestPoint
from fmlfast.evaluation.scans.correspondence import Correspondence
from fmlfast.evaluation.scans.datasets import Person, Scan, ScanFile, read_scans
from fmlfast.evaluation.scans.face_regions import face_parts
from fmlfast.evaluation.scans.table import CORRESPONDING, ScanErrors, ScanErrorTable, draw_curves
from fmlfast.evaluation.stored_table import store_table
from fmlfast.evaluation.table import MEAN_FACE, rounded
from fmlfast.model.fml import FML
from fmlfast.reconstruction.pipeline import reconstruct
from fmlfast.reconstruction.result import Reconstruction
from fmlfast.template.face_template import FaceTemplate

LANDMARK_MISFIT = 0.3  # of the landmarks' radius; people, expressions and marking amount to 0.28, wrong orders to more
SWAPPED_MISFIT = 0.1  # of the radius; lists with left and right swapped miss by 0.15 or more
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
    same moment, `neutral_*` the geometry without with the person's neutral scan, once for every photo; both by the
    distance to the closest point of the mesh, and as `*_corresponding_*` by that to the corresponding point.

    `ratios` holds each row over the mean face, `spread` the standard errors over people, `parts` the mean and median by
    part of the face, `curves` the shares of points below the distances in `curves["mm"]`, `person_means` each person's
    mean, `corresponding_share` the share of the scan points that have a counterpart, `failed` the people and the photos
    that were left out with the reason, and `not_converged` how many alignments were ended by the limit of iterations.

    Raises ValueError for folders that are no scan set, or a run that is none, and when no person could be measured.
    """
    run = Path(run)
    check_writable(run / "scans.json")  # before the work
    template = FML.load(run).template
    people, failed = read_scans(folder, layout)
    failed |= _check_people(people, template)  # before the slow part
    people = [person for person in people if person.name not in failed]
    errors, photos = ScanErrorTable(), 0
    longest = max((len(person.photos) for person in people), default=0)
    for person in people:
        try:
            found, faceless = _measure_person(person, run, refine, f"frames_{longest}")
        except ValueError as error:
            failed[person.name] = _reason(error)
            continue
        for measured in found:
            errors.add(person=person.name, **measured)
        failed |= faceless
        photos += len(person.photos) - len(faceless)
    if not errors.people:
        raise ValueError(f"{folder}: nobody could be measured; the first reason: {next(iter(failed.values()))}")
    table = errors.table()
    table |= {"people": len(errors.people), "photos": photos}
    table |= {"scans": Path(folder).resolve().name, "layout": people[0].layout}
    table = rounded(table | {"refine_steps": refine, "failed": failed})
    store_table(run / "scans.json", table, ("scans",))
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
    """Aligns landmarks [K, 3] by a similarity; raises ValueError where those of no face and no expression miss so.

    Left and right are swapped where the mirror image of the mesh's landmarks fits better: a face is nearly its own.
    """
    start = align_landmarks(mesh, scan)
    radius = np.sqrt(((scan - scan.mean(0)) ** 2).sum(1).mean())
    misfit = _misfit(start, mesh, scan) / radius
    if misfit > LANDMARK_MISFIT:
        raise ValueError(
            f"the landmarks of scan and mesh do not fit each other (they miss by {misfit:.0%} of their radius); check "
            "their order, which begins at the outer corner of the subject's right eye"
        )
    mirrored = mesh * np.array([-1.0, 1.0, 1.0])
    if misfit > SWAPPED_MISFIT and _misfit(align_landmarks(mirrored, scan), mirrored, scan) / radius < misfit:
        raise ValueError(
            "the landmarks of scan and mesh do not fit each other: left and right are swapped; their order begins at "
            "the outer corner of the subject's right eye"
        )
    return start


def _misfit(start: MeshToScan, mesh: NDArray[np.float64], scan: NDArray[np.float64]) -> float:
    return float(np.sqrt(((start.apply(mesh) - scan) ** 2).sum(1).mean()))


def _check_people(people: list[Person], template: FaceTemplate) -> dict[str, str]:
    """Reads all scans; returns the people with one that cannot be measured, with the reason."""
    failed = {}
    for person in people:
        try:
            for file in person.scans:
                _check_scan(file, template)
        except ValueError as error:
            failed[person.name] = _reason(error)
    return failed


def _reason(error: ValueError) -> str:
    return " ".join(str(error).split())


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


def _measure_person(
    person: Person, run: Path, refine: int, jointly: str
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Reconstructs one person and measures; returns what ScanErrorTable.add takes, and failed photos' reasons."""
    alone: dict[int, Reconstruction] = {}
    failed: dict[str, str] = {}
    for index, photo in enumerate(person.photos):
        try:
            alone[index] = reconstruct([photo.path], run, refine=0)
        except ValueError as error:
            failed[str(photo.path)] = _reason(error)
    if not alone:
        return [], failed
    paths = [person.photos[index].path for index in alone]
    together: dict[str, Reconstruction] = {}
    if jointly != "frames_1":
        together[jointly] = reconstruct(paths, run, refine=0)
    if refine > 0:
        together[f"{jointly}_refined"] = reconstruct(paths, run, refine=refine)
    template = next(iter(alone.values())).template
    ruler = _Ruler(template)
    scans = [person.photos[index].scan for index in alone]
    found: list[dict[str, Any]] = []

    def measure(row: str, kind: str, vertices: Tensor, scan: Scan, times: int = 1) -> None:
        for name, errors, parts in ruler(kind, vertices, scan):
            found.append({"row": row, "kind": name, "errors": errors, "parts": parts, "times": times})

    for place, (result, file) in enumerate(zip(alone.values(), scans, strict=True)):
        if file is not None:
            scan = file.read()
            measure(MEAN_FACE, "posed", template.vertices, scan)
            measure("frames_1", "posed", result.vertices[0], scan)
            for row, joint in together.items():
                measure(row, "posed", joint.vertices[place], scan)
    if person.neutral is not None:
        scan = person.neutral.read()
        for result in alone.values():
            measure("frames_1", "neutral", result.neutral, scan)
        shared = {MEAN_FACE: template.vertices} | {row: joint.neutral for row, joint in together.items()}
        for row, vertices in shared.items():
            measure(row, "neutral", vertices, scan, len(alone))
    return found, failed


class _Ruler:
    """Measures shapes of one template against scans."""

    def __init__(self, template: FaceTemplate) -> None:
        self.template = template
        self.parts = face_parts(template)
        hidden = template.mouth_and_lashes[template.triangles.long()].all(1)  # what no scan shows is not measured
        self.triangles = template.triangles[~hidden].numpy()
        self.corresponding = Correspondence(template, self.triangles, self.parts)

    def __call__(self, kind: str, vertices: Tensor, scan: Scan) -> Iterator[tuple[str, ScanErrors, NDArray[np.int64]]]:
        """Measures vertices [V, 3] against a scan, to the closest and to the corresponding points.

        Yields the kind of each, N errors and the part of the face [N] of each error.
        """
        start = align_landmarks(_landmarks(self.template, vertices, scan), scan.landmarks)
        points, shape = scan.points[face_disc(scan)], vertices.double().numpy()
        closest = _measure(points, ClosestPoint(shape, self.triangles), start)
        yield kind, closest, self.parts[closest.nearest]
        paired = self.corresponding(shape, scan, points, closest.alignment)
        yield kind + CORRESPONDING, paired, self.parts[paired.nearest]
