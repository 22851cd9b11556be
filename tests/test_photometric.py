import numpy as np
import pytest
import torch

from fmlfast.kernels.photometric import photometric, sample_bilinear


def test_samples_at_pixel_centres_and_between() -> None:
    image = torch.arange(12.0).view(1, 1, 3, 4)
    uv = torch.tensor([[[0.5, 0.5], [3.5, 2.5], [1.0, 0.5], [2.5, 2.0], [-5.0, 0.5]]])
    assert sample_bilinear(image, uv)[0, :, 0].tolist() == pytest.approx([0, 11, 0.5, 8, 0], abs=1e-5)


@pytest.mark.parametrize("kind", ["squared", "l1", "charbonnier"])
def test_matches_a_naive_loop_and_gradchecks(kind: str) -> None:
    rng = np.random.default_rng(3)
    images = torch.tensor(rng.uniform(size=(2, 3, 7, 9)))
    uv = torch.tensor(rng.uniform(1.1, 5.9, size=(2, 5, 2)), requires_grad=True)
    colors = torch.tensor(rng.uniform(size=(2, 5, 3)), requires_grad=True)
    weights = torch.tensor(rng.integers(0, 2, size=(2, 5)).astype(float))
    weights[:, 0] = 1
    loss, sampled = photometric(images, uv, colors, weights, kind)
    for f in range(2):
        total = 0.0
        for v in range(5):
            x, y = uv[f, v].tolist()
            x0, y0 = int(np.floor(x - 0.5)), int(np.floor(y - 0.5))
            a, b = x - 0.5 - x0, y - 0.5 - y0
            i = images[f]
            value = (1 - b) * ((1 - a) * i[:, y0, x0] + a * i[:, y0, x0 + 1]) + b * (
                (1 - a) * i[:, y0 + 1, x0] + a * i[:, y0 + 1, x0 + 1]
            )
            torch.testing.assert_close(sampled[f, v].detach(), value)
            d2 = float((value - colors[f, v].detach()).square().sum())
            rho = {"squared": d2, "l1": d2**0.5, "charbonnier": (d2 + 9e-4) ** 0.5 - 0.03}[kind]
            total += float(weights[f, v]) * rho
        assert loss[f].item() == pytest.approx(total / float(weights[f].sum()), rel=1e-6)
    assert torch.autograd.gradcheck(lambda u, c: photometric(images, u, c, weights, kind)[0], (uv, colors))


def test_a_frame_without_visible_vertices_costs_nothing() -> None:
    loss, _ = photometric(torch.rand(1, 3, 4, 4), torch.rand(1, 3, 2), torch.rand(1, 3, 3), torch.zeros(1, 3))
    assert loss.item() == 0
    with pytest.raises(ValueError, match="kind"):
        photometric(torch.rand(1, 3, 4, 4), torch.rand(1, 3, 2), torch.rand(1, 3, 3), torch.zeros(1, 3), "huber")
