"""Solves the screened Poisson equation on a masked grid, by multigrid."""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

CYCLES, SMOOTHING, DAMPING = 4, 2, 0.8
COARSEST = 8  # cells a side


def solve_poisson(
    gradient_x: Tensor,  # [C, H, W - 1]
    gradient_y: Tensor,  # [C, H - 1, W]
    inside: Tensor,  # [H, W] bool
    screen: float,
) -> Tensor:  # [C, H, W]
    """Finds the image with the given differences between neighbours, and small values.

    Minimises sum |u_q - u_p - g_pq|^2 over neighbours p, q inside, plus `screen` sum u_p^2: differences hold up to a
    distance of 1 / sqrt(screen) pixels, and beyond it the image goes to 0. Multigrid V-cycles with damped Jacobi
    smoothing; coarse grids average the couplings. Gradients to pixels outside are ignored, the image is 0 there.
    """
    mask = inside.to(gradient_x.dtype)
    wx, wy = mask[:, 1:] * mask[:, :-1], mask[1:] * mask[:-1]
    right = torch.zeros(len(gradient_x), *mask.shape)
    right[:, :, 1:] += wx * gradient_x
    right[:, :, :-1] -= wx * gradient_x
    right[:, 1:] += wy * gradient_y
    right[:, :-1] -= wy * gradient_y
    levels = [_Level(wx, wy, screen * mask)]
    while min(levels[-1].screen.shape) > COARSEST and all(side % 2 == 0 for side in levels[-1].screen.shape):
        levels.append(levels[-1].coarser())
    solution = torch.zeros_like(right)
    for _ in range(CYCLES):
        solution = _cycle(levels, 0, solution, right)
    return solution


class _Level:
    """Couplings of neighbours and screening of a grid."""

    def __init__(self, wx: Tensor, wy: Tensor, screen: Tensor) -> None:
        self.wx, self.wy, self.screen = wx, wy, screen
        diagonal = screen.clone()
        diagonal[:, 1:] += wx
        diagonal[:, :-1] += wx
        diagonal[1:] += wy
        diagonal[:-1] += wy
        self.diagonal = diagonal
        self.damped = torch.where(diagonal > 0, DAMPING / diagonal.clamp(min=1e-12), 0.0)

    def coarser(self) -> "_Level":
        """Halves the grid: two parallel couplings over twice the distance are one, four screens add up."""
        wx = 0.5 * (self.wx[::2, 1::2] + self.wx[1::2, 1::2])
        wy = 0.5 * (self.wy[1::2, ::2] + self.wy[1::2, 1::2])
        return _Level(wx, wy, 4 * avg_pool2d(self.screen[None], 2)[0])

    def residual(self, u: Tensor, right: Tensor) -> Tensor:
        """Computes right - A u."""
        result = right - self.diagonal * u
        result[:, :, :-1].addcmul_(self.wx, u[:, :, 1:])
        result[:, :, 1:].addcmul_(self.wx, u[:, :, :-1])
        result[:, :-1].addcmul_(self.wy, u[:, 1:])
        result[:, 1:].addcmul_(self.wy, u[:, :-1])
        return result


def _cycle(levels: list[_Level], depth: int, u: Tensor, right: Tensor) -> Tensor:
    """Runs one V-cycle from a level down."""
    level = levels[depth]
    last = depth == len(levels) - 1
    for _ in range(30 if last else SMOOTHING):
        u = u.addcmul(level.damped, level.residual(u, right))
    if last:
        return u
    rest = 4 * avg_pool2d(level.residual(u, right), 2)
    change = _cycle(levels, depth + 1, torch.zeros_like(rest), rest)
    u = u + interpolate(change[None], scale_factor=2, mode="bilinear", align_corners=False)[0] * (level.diagonal > 0)
    for _ in range(SMOOTHING):
        u = u.addcmul(level.damped, level.residual(u, right))
    return u
