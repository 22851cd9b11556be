"""Camera-space rasterisation and interpolation against OpenGL (llvmpipe), by both converters of cameras."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks.peers.opengl_canvas import Picture
from fmlfast.camera import to_nvdiffrast, to_opengl
from fmlfast.kernels.interpolate import interpolate
from fmlfast.kernels.rasterize import Fragments, rasterize
from tests.helpers.opengl import Truth, cast, draw
from tests.helpers.rasterize_scenes import grid, picture

Scene = tuple[Tensor, Tensor, Tensor, int, int]
NEAR, FAR = 1.0, 1e4  # mm


def sheet(seed: int) -> Scene:
    """A bumpy sheet of triangles of half a pixel to three pixels, that folds over itself."""
    g = torch.Generator().manual_seed(seed)
    height, width, cells = 37, 45, 24
    y, x = torch.meshgrid(torch.linspace(-160, 160, cells + 1), torch.linspace(-180, 180, cells + 1), indexing="ij")
    vertices = torch.stack([x, y, torch.full_like(x, 500.0)], -1)
    vertices += (torch.rand(vertices.shape, generator=g) - 0.5) * torch.tensor([40.0, 40, 80])
    K = torch.tensor([[55.0, 2.0, width / 2 - 1], [0, 51.0, height / 2 + 2], [0, 0, 1]])
    return vertices.view(1, -1, 3), grid(cells, cells, False), K[None], height, width


def walls(seed: int) -> Scene:
    """Triangles far larger than the picture, that cut each other and the near plane."""
    g = torch.Generator().manual_seed(seed)
    vertices = (torch.rand(1, 36, 3, generator=g) - 0.5) * torch.tensor([900.0, 900, 500]) + torch.tensor([0, 0, 150])
    K = torch.tensor([[30.0, 0, 20.0], [0, 34.0, 33.0], [0, 0, 1]])
    return vertices, torch.arange(36).view(12, 3), K[None], 63, 41


SCENES: dict[str, tuple[Callable[[int], Scene], int]] = {"sheet": (sheet, 3), "walls": (walls, 8), "mixed": (picture, 8)}


def by_opengl(scene: Scene, attributes: Tensor | None = None, cull: bool = False) -> tuple[Picture, Truth]:
    """With y upwards, as programs of OpenGL have it, and turned to our order of rows."""
    vertices, triangles, Ks, height, width = scene
    modelviews, projections = to_opengl(torch.eye(4)[None].double(), Ks.double(), height, width, NEAR, FAR)
    points = torch.nn.functional.pad(vertices[0].double(), (0, 1), value=1.0)
    clip = (points @ (projections @ modelviews)[0].T).float()
    return tuple(type(a)(*(x.flip(0) for x in a)) for a in both(clip, scene, attributes, cull))


def by_nvdiffrast(scene: Scene, attributes: Tensor | None = None, cull: bool = False) -> tuple[Picture, Truth]:
    """With y downwards, so that row 0 is ours."""
    vertices, _, Ks, height, width = scene
    return both(to_nvdiffrast(vertices.double(), Ks.double(), height, width, NEAR, FAR)[0].float(), scene, attributes, cull)


def both(clip: Tensor, scene: Scene, attributes: Tensor | None, cull: bool) -> tuple[Picture, Truth]:
    _, triangles, _, height, width = scene
    found = draw(clip, triangles, height, width, attributes, cull)
    return found, cast(clip, triangles, height, width, cull)


CONVERTERS = {"opengl": by_opengl, "nvdiffrast": by_nvdiffrast}


def ndc_depth(depth: Tensor) -> Tensor:
    """z / w of camera z."""
    return (FAR + NEAR - 2 * FAR * NEAR / depth.double()) / (FAR - NEAR)


def assert_within(got: Tensor, expected: Tensor, slack: Tensor) -> None:
    excess = (got.double() - expected.double()).abs() / slack
    assert excess.max() <= 1, f"{float(excess.max())} of what snapping explains"


@pytest.mark.parametrize("converter", CONVERTERS)
@pytest.mark.parametrize("name", SCENES)
def test_same_picture(name: str, converter: str):
    make, count = SCENES[name]
    pixels = certain = 0
    for seed in range(count):
        scene = make(seed)
        attributes = torch.rand(scene[0].shape[1], 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        drawn, truth = CONVERTERS[converter](scene, attributes)
        found = rasterize(*scene, near=NEAR)
        sure = truth.certain
        pixels, certain = pixels + sure.numel(), certain + int(sure.sum())
        assert torch.equal(drawn.triangle_id[sure], truth.triangle_id[sure])
        assert torch.equal(found.triangle_id[0][sure], drawn.triangle_id[sure])
        seen = sure & (drawn.triangle_id >= 0)
        assert_within(found.barycentrics[0][seen], drawn.barycentrics[seen], truth.barycentrics_slack[seen])
        assert_within(ndc_depth(found.depth[0][seen]), drawn.depth[seen], truth.depth_slack[seen])
        image = interpolate(attributes[None], scene[1], found)[0]
        assert_within(image[seen], drawn.attributes[seen], truth.barycentrics_slack[seen].sum(-1, keepdim=True))
    print(name, converter, certain / pixels)
    assert certain > 0.9 * pixels
