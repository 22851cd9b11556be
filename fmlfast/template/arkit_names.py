"""Lists ARKit's face shapes, in its order."""

from collections.abc import Sequence

_EYE = ("Blink", "LookDown", "LookIn", "LookOut", "LookUp", "Squint", "Wide")
ARKIT_NAMES = (
    *(f"eye{shape}{side}" for side in ("Left", "Right") for shape in _EYE),
    *("jawForward", "jawLeft", "jawRight", "jawOpen"),
    *("mouthClose", "mouthFunnel", "mouthPucker", "mouthLeft", "mouthRight", "mouthSmileLeft", "mouthSmileRight"),
    *("mouthFrownLeft", "mouthFrownRight", "mouthDimpleLeft", "mouthDimpleRight", "mouthStretchLeft"),
    *("mouthStretchRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper"),
    *("mouthPressLeft", "mouthPressRight", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthUpperUpLeft"),
    *("mouthUpperUpRight", "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight"),
    *("cheekPuff", "cheekSquintLeft", "cheekSquintRight", "noseSneerLeft", "noseSneerRight", "tongueOut"),
)
"""The 52 shapes in the order in which Apple documents `ARFaceAnchor.BlendShapeLocation`: left eye, right eye, mouth and
jaw, brows, cheeks, nose, tongue. Left and right are the subject's."""


def arkit_name(name: str) -> str:
    """Spells an expression's name as ARKit does where it ends in _L or _R, as those of ICT-FaceKit do."""
    return {"_L": name[:-2] + "Left", "_R": name[:-2] + "Right"}.get(name[-2:], name)


def arkit_order(names: Sequence[str]) -> list[int]:
    """Orders expressions as ARKit does; those with other names follow, as they come.

    Returns the index of each in `names`.
    """
    place = {name: i for i, name in enumerate(ARKIT_NAMES)}
    return sorted(range(len(names)), key=lambda i: place.get(arkit_name(names[i]), len(place)))
