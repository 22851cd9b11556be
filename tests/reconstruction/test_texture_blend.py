"""The screened Poisson solver against a dense solution."""

import torch

from fmlfast.reconstruction.texture_blend import solve_poisson


def dense(gradient_x: torch.Tensor, gradient_y: torch.Tensor, inside: torch.Tensor, screen: float) -> torch.Tensor:
    """Normal equations of the least squares problem, pixel by pixel, in float64."""
    height, width = inside.shape
    index = torch.arange(height * width).view(height, width)
    rows, values = [], []
    for first, second, gradient in (
        (index[:, :-1], index[:, 1:], gradient_x),
        (index[:-1], index[1:], gradient_y),
    ):
        pairs = inside.flatten()[first] & inside.flatten()[second]
        for p, q, g in zip(first[pairs], second[pairs], gradient[pairs], strict=True):
            row = torch.zeros(height * width, dtype=torch.float64)
            row[q], row[p] = 1.0, -1.0
            rows.append(row)
            values.append(g.double())
    system = torch.stack(rows)
    matrix = system.T @ system + screen * torch.eye(height * width, dtype=torch.float64)
    return torch.linalg.solve(matrix, system.T @ torch.stack(values)).view(height, width).float()


def test_poisson_is_solved_on_a_ragged_mask():
    rng = torch.Generator().manual_seed(3)
    inside = torch.rand(16, 16, generator=rng) > 0.15
    inside[:, 9:11] = False  # two islands
    gx, gy = torch.randn(2, 16, 15, generator=rng), torch.randn(2, 15, 16, generator=rng)
    for screen in (0.5, 0.05):
        solution = solve_poisson(gx, gy, inside, screen)
        for channel in range(2):
            expected = dense(gx[channel], gy[channel], inside, screen)
            error = (solution[channel] - expected)[inside].norm() / expected[inside].norm()
            assert error < 0.03
    assert (solution[:, ~inside] == 0).all()


def test_consistent_gradients_give_their_image_back():
    rng = torch.Generator().manual_seed(4)
    image = torch.nn.functional.avg_pool2d(torch.randn(1, 68, 68, generator=rng), 5, 1)  # [1, 64, 64]
    image = image - image.mean()
    inside = torch.ones(64, 64, dtype=torch.bool)
    solution = solve_poisson(image.diff(dim=2), image.diff(dim=1), inside, 1e-4)
    assert (solution - image).norm() / image.norm() < 0.03
