"""Registers a linear head model to the face template, so that synthetic clips can show people drawn from it.

    python tools/register_population.py ict_facekit_light.npz people-ict.npz

Input: ICT-FaceKit light (MIT, USC Institute for Creative Technologies) as one npz: `mean` [V, 3], `faces` [T, 3], `mat`
[T] material names, `ident` [K, V, 3] identity modes of unit variance, `lm68` [68] vertex ids, `unit_mm`. Output: the
same mean and modes on the vertices of the template's base mesh, for `--population` of `python -m
fmlfast.data.synthetic`. Neither file belongs into the repository.

Non-rigid ICP with a stiffness that falls (Amberg et al., Optimal Step Nonrigid ICP Algorithms for Surface Registration,
CVPR 2007): landmarks and closest points pull, membrane and bending energy of the displacement resist. Then each
template vertex is tied to its closest surface point, whose modes it takes; where there is none (mouth bag, back of the
ears), modes continue smoothly. Eyeballs move rigidly with the other model's, teeth, tongue and lashes with the skin and
the mouth's walls next to them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fmlfast.common.passive_waiting  # noqa: F401  (before torch)

import numpy as np
import scipy.sparse as sp
import torch
import trimesh
import tyro
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu

from fmlfast.common.atomic import atomic_path
from fmlfast.data.synthetic.people import align_rigid
from fmlfast.evaluation.scans.closest_point import ClosestPoint
from fmlfast.kernels.common.topology import unique_edges
from fmlfast.renderer import vertex_normals
from fmlfast.template.assets import load_assets
from fmlfast.template.face_template import FaceTemplate

Array = NDArray[np.float64]

SKIN = ("M_Face", "M_BackHead")
EYES = (("M_ScleraLeft", "M_IrisLeft"), ("M_ScleraRight", "M_IrisRight"))
STIFFNESS = np.geomspace(300.0, 0.6, 30)
FACING = 0.6  # least cosine between normals of tied points
NEAR = 6.0  # mm, greatest distance of tied points
ANCHORS = 24  # vertices of the head next to a part, whose mean displacement carries it


@dataclass(frozen=True)
class HeadModel:
    """A linear head model in millimetres."""

    mean: Array  # [V, 3]
    modes: Array  # [K, V, 3]
    triangles: NDArray[np.int64]  # [T, 3] of the skin
    eyes: tuple[NDArray[np.int64], NDArray[np.int64]]  # vertices of the left and the right eyeball
    landmarks: NDArray[np.int64]  # [68]


def read_ict(path: Path) -> HeadModel:
    """Reads ICT-FaceKit light."""
    with np.load(path, allow_pickle=False) as stored:
        unit, material, faces = float(stored["unit_mm"]), stored["mat"], stored["faces"].astype(np.int64)
        return HeadModel(
            stored["mean"].astype(np.float64) * unit,
            stored["ident"].astype(np.float64) * unit,
            faces[np.isin(material, SKIN)],
            tuple(np.unique(faces[np.isin(material, names)]) for names in EYES),  # pyright: ignore[reportArgumentType]
            stored["lm68"],
        )


@dataclass(frozen=True)
class Tie:
    """The closest point on a triangle mesh of each of N points."""

    triangle: NDArray[np.int64]  # [N]
    barycentrics: Array  # [N, 3]
    points: Array  # [N, 3]
    normals: Array  # [N, 3]
    good: NDArray[np.bool_]  # [N] near, facing the same way, and not on the rim


def tie(points: Array, normals: Array, mesh: ClosestPoint, rim: NDArray[np.bool_]) -> Tie:
    """Ties points [N, 3] with normals to the closest ones of `mesh`; `rim` [V] marks its border."""
    found = mesh(points)
    barycentrics = trimesh.triangles.points_to_barycentric(mesh.corners[found.triangle], found.point)
    facing = mesh.normals[found.triangle]
    good = (found.distance < NEAR) & ((facing * normals).sum(1) > FACING)
    good &= ~rim[mesh.triangles[found.triangle]].any(1)
    return Tie(found.triangle, barycentrics, found.point, facing, good)


def register(head: HeadModel, template: FaceTemplate) -> tuple[Array, Array, dict[str, float]]:
    """Registers mean and modes to the base mesh: [V0, 3] and [K, V0, 3] mm, and distances in mm to report."""
    points, triangles = template.vertices.double().numpy(), template.triangles.long().numpy()
    marks = template.landmarks(template.vertices).double().numpy()
    inner = np.arange(17, 68)
    offset = marks[inner].mean(0) - head.mean[head.landmarks[inner]].mean(0)
    start = head.mean + offset
    aligned = align_rigid(start[head.landmarks], marks, np.r_[np.full(17, 0.1), np.ones(51)])
    start = move_rigidly(start, start[head.landmarks], aligned)
    mesh = ClosestPoint(start, head.triangles)
    rim = border(head.triangles, len(start))

    edges = unique_edges(template.triangles).numpy()
    label = connected_components(adjacency(edges, len(points)), directed=False)[1]
    main = label == np.bincount(label).argmax()
    eyes, hairs = (template.regions[name].numpy() > 0.5 for name in ("eyes", "lashes"))
    free = main & (template.regions["mouth_bag"].numpy() < 0.5)
    resist = energy(edges, points) + 1e-6 * sp.eye(len(points))  # parts that nothing pulls stay where they are
    corners = triangles[template.landmark_triangles.numpy()]  # [68, 3]
    rows = np.repeat(np.arange(68), 3)
    pick = sp.csr_matrix(
        (template.landmark_barycentrics.double().numpy().ravel(), (rows, corners.ravel())), (68, len(points))
    )
    weight = np.r_[np.full(17, 0.0), np.full(51, 1.0)]
    goal = start[head.landmarks]

    moved = points.copy()
    for step, stiffness in enumerate(STIFFNESS):
        found = tie(moved, normals(moved, triangles), mesh, rim)
        used = (found.good & free).astype(float)
        along = found.normals * used[:, None] ** 0.5
        # Distance to the tangent plane, and a little to the point itself.
        flat = sp.hstack([sp.diags(along[:, k]) for k in range(3)])
        system = flat.T @ flat + sp.kron(sp.eye(3), stiffness * resist + sp.diags(0.1 * used))
        right = (flat.T @ (along * found.points).sum(1)).reshape(3, -1).T + 0.1 * used[:, None] * found.points
        pull = (2.0 if step < len(STIFFNESS) // 2 else 0.5) * weight
        marking = pick.T @ sp.diags(pull) @ pick
        system = system + sp.kron(sp.eye(3), marking)
        right = right + pick.T @ (pull[:, None] * goal) + stiffness * (resist @ points)
        moved = np.ascontiguousarray(splu(system.tocsc()).solve(right.T.ravel()).reshape(3, -1).T)

    found = tie(moved, normals(moved, triangles), mesh, rim)
    used = found.good & free
    corner = head.triangles[found.triangle]  # [V0, 3]

    def carried(values: Array) -> Array:  # [V, C] -> [V0, C]
        return np.einsum("vk,vkc->vc", found.barycentrics, values[corner])

    modes = head.modes.transpose(1, 2, 0).reshape(len(start), -1)  # [V, 3K]
    fill = splu((sp.diags(100.0 * used) + resist).tocsc())
    shift = fill.solve(100.0 * used[:, None] * (found.points - points))
    mean = points + shift
    field = fill.solve(100.0 * used[:, None] * carried(modes))
    for part in np.setdiff1d(label, label[main][0]):
        member = label == part
        if not eyes[member].any():
            gap = np.linalg.norm(points[main][:, None] - points[member][None], axis=2).min(1)
            anchors = np.flatnonzero(main)[np.argsort(gap, kind="stable")[: 1 if hairs[member].all() else ANCHORS]]
            mean[member] = points[member] + (mean - points)[anchors].mean(0)
            field[member] = field[anchors].mean(0)
            continue
        side = int(points[member, 0].mean() < 0)
        eye, own = start[head.eyes[side]], points[member]
        sphere, ball = fit_sphere(own), fit_sphere(eye)
        mean[member] = ball[0] + (own - sphere[0]) * (ball[1] / sphere[1])
        field[member] = modes[head.eyes[side]].mean(0)
    modes = field.reshape(len(points), 3, -1).transpose(2, 0, 1)
    reported = {
        "tied": float(used.sum() / free.sum()),
        "from template to surface, mm": float(np.linalg.norm(found.points - moved, axis=1)[used].mean()),
        "landmarks, mm": float(np.linalg.norm((pick @ mean) - goal, axis=1)[17:].mean()),
    }
    return mean, modes, reported


def normals(points: Array, triangles: NDArray[np.int64]) -> Array:
    """Computes unit vertex normals [V, 3]."""
    return vertex_normals(torch.from_numpy(points)[None].float(), torch.from_numpy(triangles).int())[0].double().numpy()


def move_rigidly(points: Array, before: Array, after: Array) -> Array:
    """Applies the rigid motion that takes `before` [N, 3] to `after` to all points [V, 3]."""
    middle, target = before.mean(0), after.mean(0)
    u, _, vt = np.linalg.svd((before - middle).T @ (after - target))
    turn = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    return (points - middle) @ turn + target


def fit_sphere(points: Array) -> tuple[Array, float]:
    """Fits centre [3] and radius of a sphere to points [N, 3] by linear least squares."""
    system = np.c_[2 * points, np.ones(len(points))]
    answer = np.linalg.pinv(system) @ (points**2).sum(1)
    return answer[:3], float(np.sqrt(answer[3] + answer[:3] @ answer[:3]))


def adjacency(edges: NDArray[np.int64], count: int) -> sp.csr_matrix:
    """Builds the symmetric adjacency matrix [V, V] of edges [N, 2]."""
    ones = np.ones(2 * len(edges))
    return sp.csr_matrix((ones, (np.r_[edges[:, 0], edges[:, 1]], np.r_[edges[:, 1], edges[:, 0]])), (count, count))


def energy(edges: NDArray[np.int64], points: Array) -> Any:
    """Builds the sparse quadratic form [V, V] of a displacement's membrane and bending energy."""
    near = adjacency(edges, len(points))
    laplacian = sp.diags(np.asarray(near.sum(1)).ravel()) - near
    return 0.02 * laplacian + 0.1 * (laplacian @ laplacian)


def border(triangles: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
    """Marks the vertices on the rim of a mesh, [V]."""
    edges = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1)
    unique, counts = np.unique(edges, axis=0, return_counts=True)
    rim = np.zeros(count, bool)
    rim[unique[counts == 1]] = True
    return rim


def main(source: tyro.conf.Positional[Path], out: tyro.conf.Positional[Path]) -> None:
    """Registers `source` and writes `out`."""
    template, assets = FaceTemplate.default(0), load_assets()
    mean, modes, reported = register(read_ict(source), template)
    aligned = align_rigid(mean, assets["vertices"], assets["people_align"].astype(np.float64))
    turn = move_rigidly(np.eye(3), mean, aligned) - move_rigidly(np.zeros((3, 3)), mean, aligned)
    with atomic_path(out) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            fingerprint=template.fingerprint,
            mean=aligned.astype(np.float32),
            modes=(modes @ turn).astype(np.float16),
        )
    for name, value in reported.items():
        print(f"{name}: {value:.3f}")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
