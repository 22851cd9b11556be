"""Unwraps the template into a texture atlas: the head's skin as one symmetric chart, the other parts beside it.

The skin starts from Tutte's embedding, which has no flipped triangle, and is relaxed by SLIM (Rabinovich et al.,
Scalable Locally Injective Mappings, SIGGRAPH 2017), which keeps it so. Mouth bag and inner lids lie in mouth and eyes.
"""

import numpy as np
import scipy.sparse as sp
from cut import BAG, EYEBALL, GUM, INNER_LID, LASH, SKIN, THROAT, TONGUE, TOOTH, TOOTH_GAP, Cut
from eyes import fit_sphere
from inner_parts import UPPER_ROWS
from numpy.typing import NDArray
from scipy.sparse.linalg import splu

Array = NDArray[np.float64]
Ids = NDArray[np.int64]

ROUNDS = 60
FACE_SCALE, OUTER_SCALE = 1.0, 0.55  # size in the atlas, of the face and of what surrounds it
INNER_SCALE = {INNER_LID: 0.45, BAG: 0.3, THROAT: 0.12}
INNER_WEIGHT = 0.03  # of the inner parts' distortion
WIDTH, TOP = 0.985, 0.992  # of the skin; v of its upper end
EYE_CENTER, EYE_RADIUS, EYE_EDGE = (0.925, 0.925), 0.062, 95.0  # of the left eye; degrees at its rim
TEETH = ((0.25, 0.036), (0.75, 0.036))  # middles of the upper and the lower row
TEETH_SIZE = (0.46, 0.05)
TONGUE_CENTER, TONGUE_HEIGHT = (0.055, 0.125), 0.10
LASH_CORNERS = np.array([[0.93, 0.08], [0.97, 0.08], [0.95, 0.16]])  # root, root, tip


def atlas(cut: Cut, vertices: Array, face: Array) -> Array:
    """Computes uv [V, 2] in [0, 1], u to the subject's left and v upwards.

    vertices [V, 3]: the neutral mean face. face [V]: mask of the face proper, which gets most of the area. A vertex of
    the head's surface and its mirror image have u and 1 - u. All lashes share one triangle.
    """
    head = np.isin(cut.part, (SKIN, INNER_LID, BAG, THROAT))
    kind = cut.part[cut.triangles]
    triangles = cut.triangles[np.isin(kind, (SKIN, INNER_LID, BAG, THROAT)).all(1)]
    inner = kind[np.isin(kind, (SKIN, INNER_LID, BAG, THROAT)).all(1)].max(1)  # every other label is above SKIN
    scale = OUTER_SCALE + (FACE_SCALE - OUTER_SCALE) * face[triangles].mean(1)
    weight = np.where(inner == SKIN, 1.0, INNER_WEIGHT)
    for label, size in INNER_SCALE.items():
        scale[inner == label] = size
    uv = np.zeros((len(vertices), 2))
    uv[head] = unwrap(vertices, triangles, scale, weight, cut.mirror)[head]
    low, high = uv[head].min(0), uv[head].max(0)
    uv[head] = (uv[head] - [0.0, high[1]]) * WIDTH / (high[0] - low[0]) + [0.5, TOP]
    place_others(uv, cut, vertices)
    return uv


def unwrap(vertices: Array, triangles: Ids, scale: Array, weight: Array, mirror: Ids) -> Array:
    """Flattens a disk [V, 3], with a pair of holes or none, to [V, 2] symmetric about u = 0.

    scale, weight [T]: size of the triangles in the map, and weight of their distortion.
    """
    loops = sorted(boundary_loops(triangles), key=len)
    points, fans = vertices, []
    for loop in loops[:-1]:  # the holes are closed while the map is computed, so that their rims cannot fold over
        center = len(points)
        points = np.concatenate([points, vertices[loop].mean(0, keepdims=True)])
        fans.append(np.stack([np.roll(loop, -1), loop, np.full(len(loop), center)], 1))
    swap = np.concatenate([mirror, len(vertices) + np.arange(len(fans))[::-1]])
    closed = np.concatenate([triangles, *fans])
    extra = len(closed) - len(triangles)
    scale = np.concatenate([scale, np.full(extra, INNER_SCALE[INNER_LID])])
    weight = np.concatenate([weight, np.full(extra, INNER_WEIGHT)])
    flat = tutte(points, closed, loops[-1], swap)
    return slim(flat, points, closed, scale, weight, swap)[: len(vertices)]


def place_others(uv: Array, cut: Cut, vertices: Array) -> None:
    """Sets uv [V, 2] of eyeballs, teeth, tongue and lashes, in place."""
    for sign in (1.0, -1.0):
        ball = (cut.part == EYEBALL) & (np.sign(vertices[:, 0]) == sign)
        ray = vertices[ball] - fit_sphere(vertices[ball])[0]
        across = np.hypot(ray[:, 0], ray[:, 1])
        polar = np.degrees(np.arctan2(across, ray[:, 2])) / EYE_EDGE
        middle = np.array([0.5 + sign * (EYE_CENTER[0] - 0.5), EYE_CENTER[1]])
        uv[ball] = middle + EYE_RADIUS * (polar / np.maximum(across, 1e-9))[:, None] * ray[:, :2]

    own = vertices[:, 0] > -1e-6
    rows = np.flatnonzero(np.isin(cut.part, (TOOTH, TOOTH_GAP, GUM)) & own).reshape(2, len(UPPER_ROWS), -1)
    for ids, middle in zip(rows, TEETH, strict=True):
        along, down = vertices[ids[2]], vertices[ids[:, 1]]  # the middle of the crowns; the first tooth's side
        x = np.r_[0.0, np.cumsum(np.linalg.norm(np.diff(along, axis=0), axis=1))]
        y = np.r_[0.0, np.cumsum(np.linalg.norm(np.diff(down, axis=0), axis=1))]
        x, y = 0.5 * TEETH_SIZE[0] * x / x[-1], TEETH_SIZE[1] * (0.5 - y / y[-1]) * np.sign(down[0, 1] - down[2, 1])
        place = np.stack(np.broadcast_arrays(x[None], y[:, None]), 2)
        uv[ids], uv[cut.mirror[ids]] = middle + place, middle + place * [-1.0, 1.0]

    tongue = cut.triangles[(cut.part[cut.triangles] == TONGUE).all(1)]
    flat = unwrap(vertices, tongue, np.ones(len(tongue)), np.ones(len(tongue)), cut.mirror)[cut.part == TONGUE]
    span = np.ptp(flat[:, 1])
    uv[cut.part == TONGUE] = TONGUE_CENTER + (flat - [0.0, flat[:, 1].min() + 0.5 * span]) * TONGUE_HEIGHT / span

    for corners in cut.triangles[(cut.part[cut.triangles] == LASH).all(1)]:
        sides = np.linalg.norm(vertices[np.roll(corners, -1)] - vertices[corners], axis=1)
        uv[np.roll(corners, -int(np.argmin(sides)))] = LASH_CORNERS  # the shortest side joins the roots


def boundary_loops(triangles: Ids) -> list[Ids]:
    """Lists the border's loops of vertices, in the direction of the triangles' sides."""
    sides = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    present = set(map(tuple, sides.tolist()))
    following = {a: b for a, b in sides.tolist() if (b, a) not in present}
    loops = []
    while following:
        start, vertex = min(following), min(following)
        loop = []
        while True:
            loop.append(vertex)
            vertex = following.pop(vertex)
            if vertex == start:
                break
        loops.append(np.array(loop))
    return loops


def tutte(points: Array, triangles: Ids, rim: Ids, swap: Ids) -> Array:
    """Embeds a disk [V, 3] in the plane [V, 2], its rim on a circle by length (Tutte 1963), symmetric."""
    lengths = np.linalg.norm(points[np.roll(rim, -1)] - points[rim], axis=1)
    turn = 2.0 * np.pi * np.r_[0.0, np.cumsum(lengths)[:-1]] / lengths.sum()
    top = int(np.argmax(np.where(np.abs(points[rim, 0]) < 1e-6, points[rim, 1], -np.inf)))
    turn = turn - turn[top] + np.pi / 2.0
    flat = np.zeros((len(points), 2))
    flat[rim] = np.stack([np.cos(turn), np.sin(turn)], 1)
    flat[rim] = 0.5 * (flat[rim] + flat[swap[rim]] * [-1.0, 1.0])
    sides = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    rows, columns = np.concatenate([sides, sides[:, ::-1]]).T
    near = sp.csr_matrix((np.ones(len(rows)), (rows, columns)), (len(points), len(points)))
    near.data[:] = 1.0
    laplacian = sp.csr_matrix(sp.diags(np.asarray(near.sum(1)).ravel()) - near)
    free = np.setdiff1d(np.unique(triangles), rim)
    flat[free] = splu(laplacian[free][:, free].tocsc()).solve(-laplacian[free][:, rim] @ flat[rim])
    return flat


def slim(flat: Array, points: Array, triangles: Ids, scale: Array, weight: Array, swap: Ids) -> Array:
    """Lowers the symmetric Dirichlet energy of a flip-free map [V, 2] of triangles times `scale`; keeps symmetry."""
    used, local = np.unique(triangles, return_inverse=True)
    local = local.reshape(triangles.shape)
    mirror = np.searchsorted(used, swap[used])
    a, b, c = (points[triangles[:, k]] for k in range(3))
    length = np.linalg.norm(b - a, axis=1)
    x = ((c - a) * (b - a)).sum(1) / length
    y = np.linalg.norm(np.cross(b - a, c - a), axis=1) / length
    length, x, y = length * scale, x * scale, y * scale
    area = 0.5 * length * y * weight
    count = len(triangles)
    slope_x = np.stack([-1.0 / length, 1.0 / length, np.zeros(count)], 1)
    slope_y = np.stack([(x / length - 1.0) / y, -x / length / y, 1.0 / y], 1)
    rows = np.repeat(np.arange(count), 3)
    along_x, along_y = (
        sp.csr_matrix((values.ravel(), (rows, local.ravel())), (count, len(used))) for values in (slope_x, slope_y)
    )

    def jacobians(values: Array) -> Array:  # [T, 2, 2]
        return np.stack([along_x @ values, along_y @ values], 2)

    def energy(values: Array) -> float:
        jacobian = jacobians(values)
        det = np.linalg.det(jacobian)
        return float((area * (jacobian**2).sum((1, 2)) * (1.0 + 1.0 / det**2)).sum()) if det.min() > 0 else np.inf

    current = flat[used]
    current = current * np.sqrt(area.sum() / (area * np.linalg.det(jacobians(current))).sum())
    for _ in range(ROUNDS):
        u, sigma, vt = np.linalg.svd(jacobians(current))
        turned = np.linalg.det(u @ vt) < 0
        if turned.any():
            raise ValueError("the map has a flipped triangle")
        near_one = np.abs(sigma - 1.0) < 1e-6
        gain = np.sqrt(np.where(near_one, 4.0, (sigma - sigma**-3) / np.where(near_one, 1.0, sigma - 1.0)))
        w = u @ (gain[:, :, None] * u.transpose(0, 2, 1))
        goal = w @ (u @ vt)  # [T, 2, 2]
        root = np.sqrt(area)
        system = sp.vstack(
            [
                sp.hstack([sp.diags(root * w[:, i, 0]) @ d, sp.diags(root * w[:, i, 1]) @ d])
                for i in range(2)
                for d in (along_x, along_y)
            ]
        ).tocsr()
        right = np.concatenate([root * goal[:, i, k] for i in range(2) for k in range(2)])
        pull = 1e-6 * float(area.mean())
        normal = (system.T @ system + pull * sp.eye(2 * len(used))).tocsc()
        answer = splu(normal).solve(system.T @ right + pull * current.T.ravel()).reshape(2, -1).T
        answer = 0.5 * (answer + answer[mirror] * [-1.0, 1.0])
        step, before = min(1.0, 0.8 * largest_step(jacobians(current), jacobians(answer - current))), energy(current)
        while energy(current + step * (answer - current)) >= before and step > 1e-8:
            step *= 0.5
        current = current + step * (answer - current)
    result = np.zeros((len(points), 2))
    result[used] = current
    return result


def largest_step(jacobian: Array, change: Array) -> float:
    """Computes the first step at which a triangle collapses: the least positive root of det(J + t dJ)."""
    a = np.linalg.det(change)
    c = np.linalg.det(jacobian)
    b = np.linalg.det(jacobian + change) - a - c
    root = np.sqrt(np.maximum(b * b - 4.0 * a * c, 0.0))
    stable = -0.5 * (b + np.where(b >= 0.0, root, -root))
    with np.errstate(divide="ignore", invalid="ignore"):
        roots = np.stack([stable / a, c / stable])
    roots = roots[:, b * b - 4.0 * a * c >= 0.0]
    roots = roots[np.isfinite(roots) & (roots > 0.0)]
    return float(roots.min()) if len(roots) else np.inf
