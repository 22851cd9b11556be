"""Defines the 68 landmarks of iBUG's 300-W scheme: ranges, the 66 used, and the permutation of a mirrored image."""

NUM_LANDMARKS = 68
NUM_JAW = 17
"""Points 0 to 16 run along the jaw line, from the subject's right ear over the chin to the left ear."""
JAW, INNER = slice(0, NUM_JAW), slice(NUM_JAW, NUM_LANDMARKS)
MOUTH_START = 48
"""Points 48 to 59 ring the outer lips, 60 to 67 the inner ones."""
LANDMARKS_66 = tuple(i for i in range(NUM_LANDMARKS) if i not in (60, 64))
"""The points that losses and metrics use: all but the inner mouth corners (paper section 5)."""
EYES = slice(36, 42), slice(42, 48)
"""Points on the lids of the subject's right eye and of the left one."""
OUTER_EYES = (36, 45)
EYES_APART = (55.0, 130.0)
"""Least and greatest distance between the outer eye corners of a person, mm."""
MIRROR = (
    *range(16, -1, -1),
    *range(26, 16, -1),
    *(27, 28, 29, 30, 35, 34, 33, 32, 31),
    *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
    *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65),
)
"""MIRROR[i] is the point that takes the place of point i in a mirrored image."""
