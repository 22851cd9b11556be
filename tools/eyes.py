"""Makes eyeballs turn and lids close over them: replaces what MakeHuman's face units do to the template's eyes."""

import numpy as np
from cut import EYEBALL, INNER_LID, LASH, SKIN, Cut
from numpy.typing import NDArray

Array = NDArray[np.float64]

GAZE = 30.0  # degrees at full strength
OUT, UP = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])  # of the left eye
DIRECTIONS = {"Out": OUT, "In": -OUT, "Up": UP, "Down": -UP}
RETRACTION = 4.2  # mm that the eyeball draws back behind closed lids
FADE = 5.0  # vertices of the margin over which that fades towards the corners
OVERLAP = 1.5  # mm that the closed upper lid passes the lower one, so that wide eyes close, too
CLEARANCE = 0.5  # mm that the skin of a moving lid keeps from the eyeball, or what it has at rest
STAGES = (0.25, 0.5, 0.75, 1.0)  # of a blink at which the clearance is kept


def turn_eyeballs(expressions: Array, names: list[str], cut: Cut, vertices: Array) -> None:
    """Sets the eyeballs' displacements under eyeLook*, in place: rotations about their centres, exact at 1.

    expressions [E, V, 3]; vertices [V, 3]: the mean face.
    """
    for side, sign in (("Left", 1.0), ("Right", -1.0)):
        ball = eyeball(cut, vertices, sign)
        center, _ = fit_sphere(vertices[ball])
        offset = vertices[ball] - center
        for name, left in DIRECTIONS.items():
            towards = left * [sign, 1.0, 1.0]
            along = offset @ np.stack([towards, [0.0, 0.0, 1.0]], 1)  # [n, 2] in the plane of the rotation
            cosine, sine = np.cos(np.radians(GAZE)), np.sin(np.radians(GAZE))
            moved = along @ np.array([[cosine, -sine], [sine, cosine]]) - along
            expressions[names.index(f"eyeLook{name}{side}"), ball] = moved @ np.stack([towards, [0.0, 0.0, 1.0]])


def close_lids(
    expressions: Array,  # [E, V, 3], changed in place
    names: list[str],
    cut: Cut,
    vertices: Array,  # [V, 3] the mean face
    anchors: NDArray[np.int64],  # [L] the skin next to each vertex of the lashes
) -> None:
    """Changes eyeBlink so that the upper lid meets the lower one everywhere and slides over the eyeball."""
    left, right = names.index("eyeBlinkLeft"), names.index("eyeBlinkRight")
    blink, before = expressions[left], expressions[left].copy()
    ball = eyeball(cut, vertices, 1.0)
    center, radius = fit_sphere(vertices[ball])
    blink[ball] = [0.0, 0.0, -RETRACTION]
    upper, lower = lid_margins(cut, vertices)

    def height(line: NDArray[np.int64], values: Array, x: Array) -> Array:
        return np.interp(x, vertices[line, 0], values)

    lid = np.flatnonzero((np.abs(before).max(1) > 1e-3) & np.isin(cut.part, (SKIN, INNER_LID)))
    x = vertices[lid, 0]
    closed = vertices + before
    missing = closed[upper, 1] - np.interp(closed[upper, 0], closed[lower, 0], closed[lower, 1])
    wanted = -OVERLAP * ends(len(upper))
    extra = np.where(missing > wanted, wanted - missing, 0.0)
    extra[[0, -1]] = 0.0  # the corners stay
    fall = np.minimum(before[upper, 1], -0.3)
    share = np.clip(before[lid, 1] / height(upper, fall, x), 0.0, 1.0)
    blink[lid, 1] += share * height(upper, extra, x)

    outer = lid[(cut.part[lid] == SKIN) & ~np.isin(lid, np.concatenate([upper, lower]))]
    at_rest = np.linalg.norm(vertices[outer] - center, axis=1) - radius
    outer, wanted = outer[at_rest > 0.0], np.minimum(at_rest[at_rest > 0.0], CLEARANCE)
    push = np.zeros((len(outer), 3))
    for stage in STAGES:
        away = vertices[outer] + stage * blink[outer] - (center - [0.0, 0.0, stage * RETRACTION])
        distance = np.linalg.norm(away, axis=1, keepdims=True)
        need = np.maximum(radius + wanted[:, None] - distance, 0.0) / stage
        larger = need > np.linalg.norm(push, axis=1, keepdims=True)
        push = np.where(larger, need * away / distance, push)
    blink[outer] += push

    lashes = cut.part == LASH
    blink[lashes] += (blink - before)[anchors]
    own = vertices[:, 0] > 0.0
    blink[~own & (np.isin(cut.part, (EYEBALL, LASH)))] = before[~own & (np.isin(cut.part, (EYEBALL, LASH)))]
    expressions[right] = blink[cut.mirror] * [-1.0, 1.0, 1.0]


def ends(count: int) -> Array:
    """Returns weights [count] that fade to 0 at both ends of a line."""
    return np.minimum(1.0, np.minimum(np.arange(count), np.arange(count)[::-1]) / FADE)


def eyeball(cut: Cut, vertices: Array, sign: float) -> NDArray[np.bool_]:
    """Marks the vertices [V] of one eyeball; sign 1: the left one's."""
    return (cut.part == EYEBALL) & (np.sign(vertices[:, 0]) == sign)


def lid_margins(cut: Cut, vertices: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lists the vertices of the left eye's upper and lower lid margin, both from the inner to the outer corner."""
    kinds = cut.part[cut.triangles]
    behind = cut.triangles[(kinds == INNER_LID).any(1)]
    rim = np.intersect1d(behind, np.flatnonzero(cut.part == SKIN))
    rim = rim[vertices[rim, 0] > 0.0]
    inner, outer = rim[np.argmin(vertices[rim, 0])], rim[np.argmax(vertices[rim, 0])]
    line = np.interp(vertices[rim, 0], vertices[[inner, outer], 0], vertices[[inner, outer], 1])
    corner = np.isin(rim, (inner, outer))
    upper, lower = rim[corner | (vertices[rim, 1] > line)], rim[corner | (vertices[rim, 1] <= line)]
    return upper[np.argsort(vertices[upper, 0])], lower[np.argsort(vertices[lower, 0])]


def fit_sphere(points: Array) -> tuple[Array, float]:
    """Fits centre [3] and radius of a sphere to points [N, 3] by linear least squares."""
    answer = np.linalg.lstsq(np.c_[2.0 * points, np.ones(len(points))], (points**2).sum(1), rcond=None)[0]
    return answer[:3], float(np.sqrt(answer[3] + answer[:3] @ answer[:3]))
