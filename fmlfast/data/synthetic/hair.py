"""Generates procedural hair as a shell over the skull with strands; a style is a few lengths."""

from dataclasses import dataclass, replace

import numpy as np

from fmlfast.data.synthetic.head import DROP, SKULL, SKULL_CENTER, body_share, dome
from fmlfast.data.synthetic.mesh_parts import Array, Part, grid_part, streaks
from fmlfast.template.regions import smoothstep


@dataclass(frozen=True)
class HairStyle:
    """Lengths of a hair style; heights are y in mm, lengths in mm."""

    top: float  # distance of the hair's surface from the crown
    side: float  # and from the sides of the head
    front: float  # height of the hairline over the forehead
    temple: float  # azimuth in degrees at which hair begins to hang down
    side_end: float  # height of the ends at the sides
    back_end: float
    curl: float  # amplitude of bumps, mm
    cloth: Array | None = None  # [3] linear albedo of a cap or scarf in the place of hair


def random_style(rng: np.random.Generator, age: float, male: bool) -> HairStyle | None:
    """Draws a hair style, or None for a bald head; age 0..1 stands for 20 to 75 years."""
    if rng.random() < 0.05:
        return _random_cover(rng)
    if male and rng.random() < 0.06 + 0.25 * max(0.0, age - 0.45):
        return None
    recede = rng.uniform(0.0, 14.0) * (1.0 if male else 0.3) * min(1.0, 1.6 * age)
    front = rng.uniform(74.0, 90.0) + recede
    if rng.random() < (0.15 if male else 0.22):
        front = rng.uniform(52.0, 68.0)  # a fringe
    kinds = ("buzz", "short", "curly", "bob", "long", "tied")
    share = [0.17, 0.55, 0.12, 0.05, 0.06, 0.05] if male else [0.01, 0.08, 0.12, 0.25, 0.34, 0.20]
    kind = rng.choice(kinds, p=share)
    u = rng.uniform
    if kind == "buzz":
        return HairStyle(u(2, 4), u(1.5, 2.5), max(front, 84.0), u(72, 80), u(28, 40), u(-45, -25), 0.2)
    if kind == "short":
        return HairStyle(u(9, 30), u(4, 11), front, u(70, 80), u(22, 42), u(-60, -35), u(0.5, 2.0))
    if kind == "curly":
        return HairStyle(u(20, 48), u(14, 40), front, u(66, 78), u(22, 40), u(-70, -40), u(2.5, 5.0))
    if kind == "tied":
        return HairStyle(u(5, 13), u(3, 7), front, u(70, 80), u(30, 45), u(-30, 0), u(0.3, 0.8))
    ears = u(62, 76) if rng.random() < 0.65 else u(96, 108)
    if kind == "bob":
        return HairStyle(u(10, 22), u(14, 26), front, ears, u(-90, -30), u(-90, -60), u(0.8, 2.5))
    return HairStyle(u(10, 22), u(14, 28), front, ears, u(-220, -120), u(-230, -140), u(0.8, 3.0))


def _random_cover(rng: np.random.Generator) -> HairStyle:
    """Draws a knitted cap, or a scarf that hangs down at the sides."""
    u, cloth = rng.uniform, np.exp(rng.uniform(np.log(0.02), np.log(0.4))) * np.exp(rng.normal(0.0, 0.3, 3))
    cloth = np.clip(cloth, 0.01, 0.6)
    if rng.random() < 0.5:
        return HairStyle(u(10, 22), u(6, 11), u(60, 76), u(68, 76), u(10, 30), u(-40, -10), 0.2, cloth)
    return HairStyle(u(10, 16), u(9, 16), u(66, 84), u(60, 66), u(-200, -120), u(-230, -140), u(0.5, 1.5), cloth)


def hair(rng: np.random.Generator, style: HairStyle, color: Array, skin: Array, detail: int = 1) -> Part:
    """Generates a shell of hair with strands in shape and colour, thinner at the hairline, or of smoother cloth."""
    strands, color = (1.0, color) if style.cloth is None else (0.25, style.cloth)
    columns, rows = 112 * detail, 16 * detail
    phi = (np.arange(columns) * (2 * np.pi / columns))[None]
    turn = np.degrees(np.minimum(phi, 2 * np.pi - phi))  # 0 front .. 180 back
    behind = style.temple > 90.0  # tucked behind the ears
    side_y, temple_y = style.side_end, (38.0 if behind else max(style.side_end, 24.0))
    fringe = style.front < 72.0
    arch = np.array([0.0, 0.0, 1.0, 4.0, 10.0]) if fringe else np.array([0.0, 0.5, 4.0, 13.0, 28.0])
    knots = [0.0, 13.0, 26.0, 39.0, 50.0, style.temple - 8.0, style.temple + 3.0, 128.0, 180.0]
    ends = [*(style.front - arch), max(temple_y, 36.0), side_y, 0.3 * side_y + 0.7 * style.back_end]
    smooth_end = np.interp(turn, knots, [*ends, style.back_end])
    end_y = smooth_end + strands * (0.7 + 0.3 * style.curl) * streaks(rng, phi, 0.0 * phi, 14, 50, 0.0)
    above = np.clip((end_y - SKULL_CENTER[1]) / SKULL[1], -1.0, 1.0)
    over, under = np.arccos(np.maximum(above, 0.0)) / (np.pi / 2), 1.0 + (SKULL_CENTER[1] - end_y) / DROP
    last = np.where(above > 0.0, over, under)
    t = np.linspace(0.01, 1.0, rows)[:, None]
    q = t * last  # [rows, columns]

    parting = rng.uniform(-0.5, 0.5)  # left or right of the middle
    stand = style.side + (style.top - style.side) * np.clip(1.0 - q, 0.0, 1.0) ** 0.7
    stand = stand * (1.0 + strands * 0.18 * streaks(rng, phi, q, 1, 5, 2.0)) + style.curl * streaks(
        rng, phi, q, 5, 14, 14.0
    )
    stand = stand * (1.0 + 0.25 * parting * np.sin(phi)) + 0.5 * streaks(rng, phi, q, 20, 50, 3.0)
    hanging = smoothstep(smooth_end, 20.0, -15.0) * (turn > 45.0)  # these ends fall free, all others lie on the skin
    tuck = smoothstep(t, 1.0, 0.8)
    front_lift = 6.0 if fringe else -1.0
    stand = hanging * stand + (1.0 - hanging) * (tuck * np.maximum(stand, 1.0) + (1.0 - tuck) * front_lift)
    grid = dome(phi, q, stand)
    flare = 1.0 + 0.10 * np.maximum(q - 1.0, 0.0)
    grid[..., 0] *= flare
    grid[..., 2] = SKULL_CENTER[2] + (grid[..., 2] - SKULL_CENTER[2]) * np.where(
        turn > 90.0, 1.0 - 0.12 * np.maximum(q - 1, 0), flare
    )

    shine = rng.uniform(0.1, 0.5) * np.exp(-(((q - rng.uniform(0.35, 0.6)) / 0.16) ** 2))
    light = 0.30 * streaks(rng, phi, q, 18, 55, 3.0) + 0.15 * streaks(rng, phi, q, 3, 10, 4.0) + shine
    light = (
        strands * light
        - 0.5 * smoothstep(q, 1.0, 2.2) * (turn > 80.0)
        - 0.35 * smoothstep(t, 0.75, 1.0) * (1.0 - hanging)
    )
    thin = 0.6 * smoothstep(t, 0.92, 1.0) * (1.0 - hanging) * (not fringe and style.cloth is None)
    shades = color * np.exp(light)[..., None]
    shades = shades + thin[..., None] * (skin - shades)
    part = grid_part(grid, shades, 0.6 * body_share(grid[..., 1]))
    return replace(part, sheet=min(style.side_end, style.back_end) < -60.0)
