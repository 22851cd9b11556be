"""Interpolation against the definition, its gradient, and shared attributes."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fmlfast.kernels.interpolate import interpolate
from fmlfast.kernels.rasterize import Fragments, rasterize


def scene(seed: int, frames: int = 3, height: int = 13, width: int = 17) -> tuple[Tensor, Tensor, Fragments]:
    g = torch.Generator().manual_seed(seed)
    vertices = torch.rand(frames, 20, 3, generator=g) * torch.tensor([60.0, 60, 50]) + torch.tensor([-30.0, -30, 60])
    triangles = torch.randint(0, 20, (25, 3), generator=g, dtype=torch.int32)
    K = torch.tensor([[30.0, 0, width / 2], [0, 30, height / 2], [0, 0, 1]]).expand(frames, 3, 3)
    return vertices, triangles, rasterize(vertices, triangles, K, height, width)


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("shared", [False, True])
def test_matches_the_definition(channels: int, shared: bool):
    _, triangles, fragments = scene(channels)
    attributes = torch.randn(1 if shared else 3, 20, channels, generator=torch.Generator().manual_seed(0))
    image = interpolate(attributes, triangles, fragments)
    assert image.shape == (3, 13, 17, channels) and image.dtype == torch.float32
    covered = 0
    for f, y, x in torch.cartesian_prod(torch.arange(3), torch.arange(13), torch.arange(17)).tolist():
        triangle = int(fragments.triangle_id[f, y, x])
        expected = torch.zeros(channels)
        if triangle >= 0:
            covered += 1
            corners = attributes[0 if shared else f, triangles[triangle].long()]
            expected = fragments.barycentrics[f, y, x] @ corners
        torch.testing.assert_close(image[f, y, x], expected)
    assert 100 < covered < 600


def test_positions_come_back_at_the_pixel():
    """Camera-space positions interpolated with perspective-correct weights lie on the pixel's ray, at its depth."""
    vertices, triangles, fragments = scene(9)
    points = interpolate(vertices, triangles, fragments)
    f, y, x = (fragments.triangle_id >= 0).nonzero().T
    seen = points[f, y, x]
    torch.testing.assert_close(seen[:, 2], fragments.depth[f, y, x], rtol=1e-5, atol=0)
    torch.testing.assert_close(30 * seen[:, 0] / seen[:, 2] + 8.5, x + 0.5, rtol=0, atol=1e-3)
    torch.testing.assert_close(30 * seen[:, 1] / seen[:, 2] + 6.5, y + 0.5, rtol=0, atol=1e-3)


@pytest.mark.parametrize("count", [1, 2])
def test_gradient(count: int):
    _, triangles, fragments = scene(4, frames=2, height=5, width=7)
    fragments = replace(fragments, barycentrics=fragments.barycentrics.double())
    attributes = torch.randn(count, 20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.autograd.gradcheck(lambda a: interpolate(a, triangles, fragments), attributes.requires_grad_())


def test_batch_equals_one_by_one_and_repeats_bitwise():
    _, triangles, fragments = scene(6)
    attributes = torch.randn(3, 20, 4, generator=torch.Generator().manual_seed(2), requires_grad=True)

    def run() -> tuple[Tensor, Tensor]:
        image = interpolate(attributes, triangles, fragments)
        return image, torch.autograd.grad(image.square().sum(), attributes)[0]

    image, gradient = run()
    assert all(torch.equal(a, b) for a, b in zip((image, gradient), run(), strict=True))
    for f in range(3):
        part = Fragments(*(a[f : f + 1] for a in (fragments.triangle_id, fragments.barycentrics, fragments.depth)))
        assert torch.equal(interpolate(attributes[f : f + 1], triangles, part)[0], image[f])


def test_empty_inputs():
    triangles = torch.zeros(0, 3, dtype=torch.int32)
    fragments = rasterize(torch.zeros(2, 4, 3), triangles, torch.eye(3).expand(2, 3, 3), 3, 5)
    assert torch.equal(interpolate(torch.ones(1, 4, 2), triangles, fragments), torch.zeros(2, 3, 5, 2))
    none = rasterize(torch.zeros(0, 4, 3), triangles, torch.zeros(0, 3, 3), 3, 5)
    assert interpolate(torch.ones(1, 4, 2), triangles, none).shape == (0, 3, 5, 2)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("attributes", {"attributes": torch.zeros(20, 3)}),
        ("attributes", {"attributes": torch.zeros(2, 20, 3)}),
        ("attributes", {"attributes": torch.zeros(3, 20, 3, dtype=torch.int32)}),
        ("fragments", {"attributes": torch.zeros(3, 20, 3, device="meta")}),
        ("triangles", {"attributes": torch.zeros(3, 5, 3)}),
        ("fragments", {"triangles": torch.zeros(2, 3, dtype=torch.int32)}),
    ],
)
def test_bad_input_names_the_argument(name: str, change: dict):
    _, triangles, fragments = scene(5)
    good = {"attributes": torch.zeros(3, 20, 3), "triangles": triangles, "fragments": fragments}
    interpolate(**good)
    with pytest.raises(ValueError, match=f"^{name}"):
        interpolate(**(good | change))
