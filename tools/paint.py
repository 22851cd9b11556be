"""Computes region masks and reference colours of the template's base mesh."""

import numpy as np
from cut import BAG, EYEBALL, GUM, INNER_LID, LASH, SKIN, THROAT, TONGUE, TOOTH, TOOTH_GAP, Cut
from makehuman import MakeHuman
from numpy.typing import NDArray

from fmlfast.template.regions import brow_mask, neck_mask, smoothstep

Array = NDArray[np.float64]

IRIS_DEGREES, PUPIL_DEGREES = 23.0, 9.0  # the last ring of eyeball vertices that belongs to each

# linear reflectance
SKIN_COLOR = np.array([0.55, 0.32, 0.225])
EAR_COLOR = np.array([0.56, 0.27, 0.19])
LIP_COLOR = np.array([0.42, 0.155, 0.135])
BROW_COLOR = np.array([0.10, 0.06, 0.04])
LID_COLOR = np.array([0.40, 0.19, 0.14])
INNER_LIP_COLOR = np.array([0.15, 0.05, 0.045])
BAG_COLOR = np.array([0.035, 0.010, 0.010])
THROAT_COLOR = np.array([0.015, 0.004, 0.004])
TOOTH_COLOR = np.array([0.60, 0.54, 0.43])
GAP_COLOR = np.array([0.30, 0.24, 0.17])
GUM_COLOR = np.array([0.36, 0.125, 0.115])
TONGUE_COLOR = np.array([0.30, 0.09, 0.085])
LASH_COLOR = np.array([0.02, 0.014, 0.011])
MOUTH_SHADE = 19.0  # mm behind the lips over which what is in the mouth darkens by e
SCLERA_COLOR = np.array([0.70, 0.66, 0.63])
IRIS_COLOR = np.array([0.16, 0.09, 0.05])
PUPIL_COLOR = np.array([0.01, 0.01, 0.01])


def region_masks(raw: MakeHuman, cut: Cut, uv: Array, vertices: Array, landmarks: Array) -> dict[str, Array]:
    """Computes symmetric masks [V] in [0, 1] of the named regions; MakeHuman's own for lips, ears and face."""
    points, marks = vertices.astype(np.float32), landmarks.astype(np.float32)
    skin = (cut.part == SKIN).astype(np.float64)

    def texture(name: str) -> Array:
        mask = raw.mask(name, uv)
        return 0.5 * (mask + mask[cut.mirror]) * skin

    ears = texture("mpfb_ears")
    neck = neck_mask(points, marks) * skin
    polar = eye_angles(raw, cut)
    face = smoothstep(texture("mpfb_face"), 0.2, 0.7)
    masks = {
        "skin": skin,
        "lips": texture("mpfb_lips"),
        "lids": texture("mpfb_eyelids"),
        "brows": brow_mask(points, marks) * skin,
        "eyes": (cut.part == EYEBALL).astype(np.float64),
        "iris": (polar <= IRIS_DEGREES).astype(np.float64),
        "pupil": (polar <= PUPIL_DEGREES).astype(np.float64),
        "ears": ears,
        "neck": neck,
        "mouth_bag": np.isin(cut.part, (BAG, THROAT, GUM)).astype(np.float64),
        "teeth": np.isin(cut.part, (TOOTH, TOOTH_GAP)).astype(np.float64),
        "tongue": (cut.part == TONGUE).astype(np.float64),
        "lashes": (cut.part == LASH).astype(np.float64),
        "face": face * (1.0 - ears) * (1.0 - neck),
    }
    return masks


def eye_angles(raw: MakeHuman, cut: Cut) -> Array:
    """Computes the angle [V] in degrees between gaze axis and each eyeball vertex at rest; infinite elsewhere."""
    rest = cut.operator @ raw.vertices
    angles = np.full(len(rest), np.inf)
    for side in (-1.0, 1.0):
        ball = np.flatnonzero((cut.part == EYEBALL) & (np.sign(rest[:, 0]) == side))
        pole = ball[np.argmax(rest[ball, 2])]
        center = rest[pole] - [0.0, 0.0, 0.5 * np.ptp(rest[ball, 0])]
        angles[ball] = np.degrees(np.arctan2(np.hypot(*(rest[ball] - center)[:, :2].T), (rest[ball] - center)[:, 2]))
    return angles


def reference_colors(
    masks: dict[str, Array], part: NDArray[np.int64], vertices: Array, triangles: NDArray[np.int64]
) -> Array:
    """Computes linear reflectance [V, 3] of average skin with lips, brows, lids and eyes, and a mouth dark inside."""
    inside = np.isin(part, (TOOTH, TOOTH_GAP, GUM, TONGUE))
    depth = vertices[part == TOOTH, 2].max() - vertices[:, 2]
    shade = np.where(inside, np.exp(-depth / MOUTH_SHADE), 1.0)[:, None]
    kinds = part[triangles]
    by_lips = np.unique(triangles[(kinds == BAG).any(1) & (kinds == SKIN).any(1)])
    layers = [
        (masks["ears"], EAR_COLOR, 0.5),
        (masks["lids"], LID_COLOR, 0.5),
        (masks["lips"], LIP_COLOR, 0.85),
        (masks["brows"], BROW_COLOR, 0.6),
        ((part == INNER_LID).astype(np.float64), LID_COLOR, 1.0),
        (masks["eyes"], SCLERA_COLOR, 1.0),
        (masks["iris"], IRIS_COLOR, 1.0),
        (masks["pupil"], PUPIL_COLOR, 1.0),
        *(
            ((part == label).astype(np.float64), color, 1.0)
            for label, color in (
                (BAG, BAG_COLOR),
                (THROAT, THROAT_COLOR),
                (TOOTH, TOOTH_COLOR),
                (TOOTH_GAP, GAP_COLOR),
                (GUM, GUM_COLOR),
                (TONGUE, TONGUE_COLOR),
                (LASH, LASH_COLOR),
            )
        ),
        (((part == BAG) & np.isin(np.arange(len(part)), by_lips)).astype(np.float64), INNER_LIP_COLOR, 1.0),
    ]
    colors = np.tile(SKIN_COLOR, (len(part), 1))
    for mask, color, strength in layers:
        amount = strength * mask[:, None]
        colors = (1.0 - amount) * colors + amount * color
    return colors * shade
