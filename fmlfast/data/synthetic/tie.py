"""Ties the face detector's 478 points to a template: finds the surface point that each of them stands for.

A point of a picture hits the surface where its pixel's ray meets the posed mesh. The hits of many pictures, taken back
to the neutral template, lie around one place of it; the surface point closest to their geometric median is the tie.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from fmlfast.data.mediapipe478 import MIRROR_POINTS, NUM_POINTS
from fmlfast.renderer import rasterize, vertex_normals
from fmlfast.template.face_template import FaceTemplate
from fmlfast.template.surface import closest_points, points_at

SKIN_POINTS = NUM_POINTS - 10  # the last ten ring the irises
FACING = 0.55  # cosine between normal and line of sight; on slanted skin a pixel spans many millimetres
ENOUGH = 5  # hits that make a median
_TURNS = 2  # of choosing the pictures that count
_ROUNDS, _NEAR = 30, 0.3  # of the geometric median; mm, below which distances count alike

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Hits:
    """Places where N points of pictures met the surface of the template, taken back to its neutral pose."""

    point: Tensor  # [N] int64, the detector's point
    place: Tensor  # [N, 3] mm, on the neutral template
    toward: Tensor  # [N, 3] unit direction to the camera, frame of the template

    @classmethod
    def join(cls, parts: "list[Hits]") -> "Hits":
        """Concatenates hits."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))


@dataclass(frozen=True)
class Tie:
    """Surface points of a template's base mesh that the detector's points stand for."""

    triangles: NDArray[np.int64]  # [478]
    barycentrics: Array  # [478, 3]
    scatter: Array  # [478] mm, median distance of a point's hits from their median; NaN where it has too few hits


def find_hits(
    template: FaceTemplate,
    vertices: Tensor,  # [F, V, 3]
    Ks: Tensor,  # [F, 3, 3]
    points: Tensor,  # [F, 478, 2]
    size: int,
) -> Hits:
    """Finds where the detector's points on F pictures of the template meet the right part of its surface.

    Args:
        template: at the level of the vertices.
        vertices: float32, contiguous, mm, camera space, of the posed template, whoever's face it has.
        Ks: float32, px.
        points: px, pixel centres at +0.5. Points off the picture or on another part hit nothing.
        size: side of the pictures, px.
    """
    skin, eyes = _parts(template)
    normals = vertex_normals(vertices, template.triangles)
    turn = _rotations(template.vertices, vertices)
    everything = torch.arange(len(template.triangles))
    eyeballs = everything if torch.equal(skin, eyes) else everything[eyes]  # the irises' rings reach under the lids
    ids = torch.arange(NUM_POINTS)
    hits = []
    for own, part, drawn in ((ids[:SKIN_POINTS], skin, everything), (ids[SKIN_POINTS:], eyes, eyeballs)):
        fragments = rasterize(vertices, template.triangles[drawn], Ks, size, size)
        pixels = points[:, own].nan_to_num(-1.0).floor().long()
        x, y = pixels.clamp(0, size - 1).unbind(-1)  # [F, P]
        frame = torch.arange(len(points))[:, None]
        hit = fragments.triangle_id[frame, y, x].long()
        weights = fragments.barycentrics[frame, y, x][..., None]  # [F, P, 3, 1]
        triangle = drawn[hit.clamp(min=0)]
        corners = template.triangles.long()[triangle]  # [F, P, 3]
        sight = normalize((vertices[frame[..., None], corners] * weights).sum(2), dim=-1)
        outside = ((normals[frame[..., None], corners] * weights).sum(2) * sight).sum(-1) < 0
        keep = ((pixels >= 0) & (pixels < size)).all(-1) & (hit >= 0) & part[triangle] & outside
        place = (template.vertices[corners] * weights).sum(2)
        hits.append(Hits(own[keep.nonzero()[:, 1]], place[keep], (-sight @ turn)[keep]))
    return Hits.join(hits)


def tie_points(
    template: FaceTemplate,  # level 0
    hits: Hits,
    symmetric: bool = False,
) -> Tie:
    """Ties each point to the surface point closest to the geometric median of its hits, on the right part.

    Pictures in which the tied place turns away from the camera say little of it: there the point lies on the outline or
    on whatever hides the place. So the first tie, by all hits, tells which pictures count for the next one, but for
    points that would have too few hits left. A point that has too few at all takes the mirror image of its
    counterpart's place. With `symmetric`, every place is averaged with that mirror image.

    Raises ValueError, naming how many, where points have too few hits and so have their counterparts.
    """
    if template.level != 0:
        raise ValueError(f"points are tied to the base mesh: give the template at level 0, not {template.level}")
    places, scatter = _places(hits, torch.ones(len(hits.point), dtype=torch.bool), symmetric)
    normals = vertex_normals(template.vertices[None], template.triangles)[0].double().numpy()
    corners = template.triangles.long().numpy()
    for _ in range(_TURNS):
        triangles, barycentrics = _closest(template, places)
        normal = torch.from_numpy(points_at(normals, corners, triangles, barycentrics)).float()
        facing = (normalize(normal, dim=1)[hits.point] * hits.toward).sum(1) > FACING
        few = torch.bincount(hits.point[facing], minlength=NUM_POINTS) < ENOUGH
        places, scatter = _places(hits, facing | few[hits.point], symmetric)
    return Tie(*_closest(template, places), scatter)


def _places(hits: Hits, used: Tensor, symmetric: bool) -> tuple[Array, Array]:
    """Computes where the points [478, 3] lie by the used [N] hits, and their scatter [478]."""
    places, scatter = _medians(hits.point[used].numpy(), hits.place[used].double().numpy())
    known, mirror = np.isfinite(scatter), np.array(MIRROR_POINTS)
    if missing := int((~known & ~known[mirror]).sum()):
        raise ValueError(
            f"{missing} of the detector's {NUM_POINTS} points have fewer than {ENOUGH} hits on the template, and so "
            "have their mirror images; take more views"
        )
    reflected = places[mirror] * [-1.0, 1.0, 1.0]
    if symmetric:
        places = np.where((known & known[mirror])[:, None], (places + reflected) / 2, places)
    return np.where(known[:, None], places, reflected), scatter


def _closest(template: FaceTemplate, places: Array) -> tuple[NDArray[np.int64], Array]:
    """Finds triangle [478] and barycentrics [478, 3] of the points' right part that lie closest to places [478, 3]."""
    triangles, barycentrics = np.zeros(NUM_POINTS, np.int64), np.zeros((NUM_POINTS, 3))
    vertices, corners = template.vertices.double().numpy(), template.triangles.long().numpy()
    ids = np.arange(NUM_POINTS)
    for part, own in zip(_parts(template), (ids < SKIN_POINTS, ids >= SKIN_POINTS), strict=True):
        allowed = np.flatnonzero(part.numpy())
        found, barycentrics[own] = closest_points(places[own], vertices, corners[allowed])
        triangles[own] = allowed[found]
    return triangles, barycentrics


def _rotations(neutral: Tensor, posed: Tensor) -> Tensor:
    """Computes the rotations [F, 3, 3] of the best rigid motions of vertices [V, 3] to [F, V, 3] (Kabsch)."""
    covariance = (posed - posed.mean(1, keepdim=True)).mT.double() @ (neutral - neutral.mean(0)).double()
    u, _, vt = torch.linalg.svd(covariance)
    u = torch.cat([u[:, :, :2], u[:, :, 2:] * torch.linalg.det(u @ vt)[:, None, None]], 2)
    return (u @ vt).float()


def _parts(template: FaceTemplate) -> tuple[Tensor, Tensor]:
    """Marks the triangles [T] of the outer skin, and those of the eyes: the skin, too, where there are none."""
    corners = template.triangles.long()
    eyes = template.regions["eyes"][corners].amin(1) > 0.5
    skin = ~template.mouth_and_lashes[corners].any(1) & ~eyes
    return skin, eyes if bool(eyes.any()) else skin


def _medians(point: NDArray[np.int64], place: Array) -> tuple[Array, Array]:
    """Computes each point's geometric median [478, 3] and scatter [478]; 0 and NaN below `ENOUGH` hits."""
    order = np.argsort(point, kind="stable")
    ends = np.cumsum(np.bincount(point, minlength=NUM_POINTS))
    medians, scatter = np.zeros((NUM_POINTS, 3)), np.full(NUM_POINTS, np.nan)
    for k, own in enumerate(np.split(place[order], ends[:-1])):
        if len(own) >= ENOUGH:
            medians[k] = _geometric_median(own)
            scatter[k] = np.median(np.linalg.norm(own - medians[k], axis=1))
    return medians, scatter


def _geometric_median(points: Array) -> Array:
    """Computes the point of least summed distance to points [N, 3], by Weiszfeld's rounds from their median."""
    median: Array = np.median(points, axis=0)
    for _ in range(_ROUNDS):
        weights = 1 / np.maximum(np.linalg.norm(points - median, axis=1), _NEAR)
        median = weights @ points / weights.sum()
    return median
