"""Camera-space rasterisation and interpolation against OpenGL (llvmpipe), by both converters of cameras."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks.peers.opengl_canvas import Picture
from fmlfast.camera import to_nvdiffrast, to_opengl
from fmlfast.kernels.interpolate import interpolate
from fmlfast.kernels.rasterize import rasterize
from tests.helpers.opengl import Truth, assert_within, draw_and_cast
from tests.helpers.rasterize_scenes import grid, picture

Scene = tuple[Tensor, Tensor, Tensor, int, int]
NEAR, FAR = 40.0, 1e4  # mm


def sheet(seed: int) -> Scene:
    """A bumpy sheet of triangles of half a pixel to three pixels, that folds over itself."""
    g = torch.Generator().manual_seed(seed)
    height, width, cells = 29, 35, 18
    y, x = torch.meshgrid(torch.linspace(-160, 160, cells + 1), torch.linspace(-180, 180, cells + 1), indexing="ij")
    vertices = torch.stack([x, y, torch.full_like(x, 500.0)], -1)
    vertices += (torch.rand(vertices.shape, generator=g) - 0.5) * torch.tensor([40.0, 40, 80])
    K = torch.tensor([[43.0, 2.0, width / 2 - 1], [0, 40.0, height / 2 + 2], [0, 0, 1]])
    return vertices.view(1, -1, 3), grid(cells, cells, False), K[None], height, width


def walls(seed: int) -> Scene:
    """Triangles far larger than the picture, that cut each other and the near plane."""
    g = torch.Generator().manual_seed(seed)
    vertices = (torch.rand(1, 36, 3, generator=g) - 0.5) * torch.tensor([900.0, 900, 500]) + torch.tensor([0, 0, 150])
    K = torch.tensor([[30.0, 0, 20.0], [0, 34.0, 33.0], [0, 0, 1]])
    return vertices, torch.arange(36).view(12, 3), K[None], 63, 41


SCENES: dict[str, tuple[Callable[[int], Scene], int]] = {
    "sheet": (sheet, 3),
    "walls": (walls, 8),
    "mixed": (picture, 8),
}


def by_opengl(scene: Scene, attributes: Tensor | None = None, cull: bool = False) -> tuple[Picture, Truth]:
    """With y upwards, as programs of OpenGL have it, and turned to our order of rows."""
    vertices, triangles, Ks, height, width = scene
    modelviews, projections = to_opengl(torch.eye(4)[None].double(), Ks.double(), height, width, NEAR, FAR)
    points = torch.nn.functional.pad(vertices[0].double(), (0, 1), value=1.0)
    clip = (points @ (projections @ modelviews)[0].T).float()
    drawn, truth = draw_and_cast(clip, triangles, height, width, attributes, cull)
    return Picture(*(x.flip(0) for x in drawn)), Truth(*(x.flip(0) for x in truth))


def by_nvdiffrast(scene: Scene, attributes: Tensor | None = None, cull: bool = False) -> tuple[Picture, Truth]:
    """With y downwards, so that row 0 is ours."""
    vertices, triangles, Ks, height, width = scene
    clip = to_nvdiffrast(vertices.double(), Ks.double(), height, width, NEAR, FAR)[0].float()
    return draw_and_cast(clip, triangles, height, width, attributes, cull)


CONVERTERS = {"opengl": by_opengl, "nvdiffrast": by_nvdiffrast}


def ndc_depth(depth: Tensor) -> Tensor:
    """z / w of camera z."""
    return (FAR + NEAR - 2 * FAR * NEAR / depth.double()) / (FAR - NEAR)


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
        for depth in (drawn.depth[seen], ndc_depth(drawn.w[seen])):
            assert_within(ndc_depth(found.depth[0][seen]), depth, truth.depth_slack[seen])
        image = interpolate(attributes[None], scene[1], found)[0]
        assert_within(image[seen], drawn.attributes[seen], truth.barycentrics_slack[seen].sum(-1, keepdim=True))
    assert certain > 0.95 * pixels


@pytest.mark.parametrize("name", SCENES)
def test_culling_leaves_out_what_opengl_calls_clockwise(name: str):
    make, count = SCENES[name]
    culled = 0
    for seed in range(20, 20 + count):
        scene = make(seed)
        drawn, truth = by_opengl(scene, cull=True)
        ids, sure = rasterize(*scene, cull_backfaces=True, near=NEAR).triangle_id[0], truth.certain
        assert torch.equal(ids[sure], drawn.triangle_id[sure]) and sure.double().mean() > 0.9
        culled += int((ids != rasterize(*scene, near=NEAR).triangle_id[0]).sum())
    assert culled > 500


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("snap", [0.5, 0.25, 2.0**-8])
def test_centres_on_edges_belong_to_the_same_triangle(snap: float, flip: bool):
    """OpenGL leaves the rule open; llvmpipe's is ours where y points down. Every pixel is hit by both, once."""
    g = torch.Generator().manual_seed(int(10 * snap) + flip)
    height, width, rows, columns = 16, 32, 9, 11  # powers of two, so that clip space is exact
    y, x = torch.meshgrid(
        torch.linspace(-3, height + 3, rows + 1), torch.linspace(-4, width + 4, columns + 1), indexing="ij"
    )
    points = torch.stack([x, y], -1)
    points = ((points + (torch.rand(points.shape, generator=g) - 0.5) * 1.5) / snap).round() * snap
    vertices = torch.cat([points, torch.full((*points.shape[:2], 1), 64.0)], -1).view(1, -1, 3)
    K = torch.tensor([[[64.0, 0, 0], [0, 64, 0], [0, 0, 1]]])
    scene = vertices, grid(rows, columns, flip), K, height, width
    drawn, truth = by_nvdiffrast(scene)
    assert snap < 0.1 or int((~truth.certain).sum()) > 5
    assert torch.equal(rasterize(*scene).triangle_id[0], drawn.triangle_id) and (drawn.triangle_id >= 0).all()
