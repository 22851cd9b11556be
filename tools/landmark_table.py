"""Where the 68 landmarks lie on MakeHuman's rest shape with its jaw slightly open, and which one mirrors which."""

import numpy as np

JAW_OPEN = 0.35  # keeps the inner lips apart, so that the closest point is on the right lip

# subject's right side and the middle; mm in the frame of the raw mesh, placed by hand and checked by eye
RIGHT = {
    0: (-69.8, 726.5, 81.1),
    1: (-70.1, 711.9, 77.5),
    2: (-68.7, 699.3, 80.6),
    3: (-65.0, 679.6, 79.7),
    4: (-57.5, 660.7, 90.2),
    5: (-48.8, 645.1, 99.6),
    6: (-40.1, 635.4, 109.3),
    7: (-24.0, 618.7, 120.0),
    8: (0.0, 610.0, 127.2),
    17: (-57.6, 741.2, 123.5),
    18: (-51.0, 747.4, 132.2),
    19: (-42.2, 751.4, 138.8),
    20: (-29.9, 752.1, 144.7),
    21: (-14.7, 750.5, 149.9),
    27: (0.0, 729.9, 150.7),
    28: (0.0, 717.0, 154.9),
    29: (0.0, 706.3, 160.9),
    30: (0.0, 698.2, 166.1),
    31: (-11.9, 683.6, 151.3),
    32: (-6.2, 680.8, 154.6),
    33: (0.0, 680.8, 158.1),
    36: (-44.0, 728.7, 135.7),
    37: (-38.2, 733.3, 140.1),
    38: (-27.6, 732.7, 140.7),
    39: (-16.1, 726.3, 139.5),
    40: (-25.8, 724.5, 139.5),
    41: (-36.5, 724.2, 139.6),
    48: (-25.4, 656.9, 138.9),
    49: (-15.9, 668.9, 151.6),
    50: (-7.8, 671.5, 156.9),
    51: (0.0, 668.8, 159.8),
    57: (0.0, 637.9, 146.3),
    58: (-8.5, 639.8, 145.7),
    59: (-21.6, 649.8, 140.0),
    60: (-23.5, 657.4, 140.2),
    61: (-5.2, 663.1, 156.6),
    62: (0.0, 662.8, 157.7),
    66: (0.0, 648.7, 145.0),
    67: (-6.0, 649.6, 145.9),
}
MIRROR = np.array(
    [*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31, 45, 44, 43, 42, 47, 46, 39, 38, 37, 36]
    + [41, 40, 54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
)


def landmark_positions() -> np.ndarray:
    """Positions [68, 3] in mm on the raw rest shape with jawOpen at JAW_OPEN, exactly symmetric."""
    positions = np.zeros((68, 3))
    for index, position in RIGHT.items():
        positions[index] = position
        positions[MIRROR[index]] = np.array(position) * [-1.0, 1.0, 1.0]
    return positions
