"""render(): colours, masks and depths of simple scenes, super-sampling, backgrounds, gradients."""

import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from fmlfast.camera import look_at, project, to_camera
from fmlfast.kernels.common.backend import Backend
from fmlfast.renderer import Fragments, Rendering, interpolate, rasterize, render, vertex_normals
from tests.test_bad_input import CALLS


def plate(z: float = 0.0, half: float = 50.0) -> tuple[Tensor, Tensor]:
    """A square facing +z: vertices [1, 4, 3], triangles [2, 3]."""
    vertices = torch.tensor([[[-half, -half, z], [half, -half, z], [half, half, z], [-half, half, z]]])
    return vertices, torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32)


def front(height: int, width: int, focal: float, distance: float = 500.0) -> tuple[Tensor, Tensor]:
    viewmats = look_at(torch.tensor([[0.0, 0, distance]]), torch.zeros(1, 3))
    return viewmats, torch.tensor([[[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]])


def same(a: Rendering, b: Rendering) -> bool:
    return torch.equal(a.image, b.image) and torch.equal(a.mask, b.mask) and torch.equal(a.depth, b.depth)


def test_a_plate_lands_where_it_should():
    """100 mm at 500 mm with f = 100 px is 20 px; red grows to +x (right in the picture), green to +y (up)."""
    vertices, triangles = plate()
    viewmats, Ks = front(31, 41, 100.0)
    colors = torch.tensor([[[0.0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]]])
    out = render(vertices, triangles, colors, viewmats, Ks, 31, 41, antialiased=False)
    inside = torch.zeros(31, 41, dtype=torch.bool)
    inside[5:25, 10:30] = True  # centres 5.5 .. 25.5 round 15.5: the top-left rule keeps the first and drops the last
    assert out.mask.dtype == torch.float32
    assert torch.equal(out.mask[0] == 1, inside) and torch.equal(out.mask[0] == 0, ~inside)
    torch.testing.assert_close(out.depth[0][inside], torch.full((400,), 500.0))
    assert (out.depth[0][~inside] == math.inf).all() and (out.image[0][~inside] == 0).all()
    y, x = torch.meshgrid(torch.arange(31) + 0.5, torch.arange(41) + 0.5, indexing="ij")
    expected = torch.stack([(x - 10.5) / 20, (25.5 - y) / 20, torch.ones_like(x)], -1)
    torch.testing.assert_close(out.image[0][inside], expected[inside], rtol=0, atol=1e-4)
    assert float(vertex_normals(vertices, triangles)[0, 0, 2]) == 1


@pytest.mark.parametrize("samples", [2, 3])
def test_supersampling_approaches_the_covered_area(samples: int):
    """Edges at 10.3 .. 30.7 px: the border pixels are covered by a part."""
    vertices, triangles = plate(half=51.0)
    viewmats, Ks = front(41, 41, 100.0)
    out = render(vertices, triangles, torch.ones(1, 4, 2), viewmats, Ks, 41, 41, antialiased=False, supersample=samples)
    assert out.image.shape == (1, 41, 41, 2) and out.mask.shape == out.depth.shape == (1, 41, 41)
    covered = sum((i + 0.5) / samples > 0.3 for i in range(samples)) / samples
    torch.testing.assert_close(out.mask[0, 20, 9:13], torch.tensor([0, covered, 1, 1]))
    torch.testing.assert_close(out.mask[0, 10, 10], torch.tensor(covered**2))
    torch.testing.assert_close(out.image[..., 1], out.mask)
    assert torch.equal(out.depth < math.inf, out.mask > 0)


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("samples", [1, 2])
def test_background_shows_through(samples: int, antialiased: bool):
    vertices, triangles = plate(half=51.25)
    viewmats, Ks = front(21, 25, 60.0)
    colors = torch.rand(1, 4, 3, generator=torch.Generator().manual_seed(0))
    options = {"antialiased": antialiased, "supersample": samples}
    black = render(vertices, triangles, colors, viewmats, Ks, 21, 25, **options)
    flat = torch.tensor([0.2, 0.4, 0.9])
    picture = torch.rand(21, 25, 3, generator=torch.Generator().manual_seed(1))
    for background in (flat, picture):
        out = render(vertices, triangles, colors, viewmats, Ks, 21, 25, background, **options)
        torch.testing.assert_close(out.image, black.image + (1 - black.mask[..., None]) * background)
        assert torch.equal(out.mask, black.mask) and torch.equal(out.depth, black.depth)
        torch.testing.assert_close(out.image[0, 0, 0], background if background.ndim == 1 else background[0, 0])


def test_nearer_surfaces_win_from_any_side():
    far, triangles = plate(-100.0)
    near, _ = plate(100.0, half=20.0)
    vertices = torch.cat([far, near], 1)  # one mesh for both cameras
    triangles = torch.cat([triangles, triangles + 4])
    colors = torch.tensor([[1.0, 0]] * 4 + [[0.0, 1]] * 4)[None]
    eyes = torch.tensor([[0.0, 0, 500], [0, 0, -500]])
    Ks = front(33, 33, 80.0)[1].expand(2, 3, 3)
    out = render(vertices, triangles, colors, look_at(eyes, torch.zeros(2, 3)), Ks, 33, 33)
    torch.testing.assert_close(out.image[0, 16, 16], torch.tensor([0.0, 1]))
    torch.testing.assert_close(out.image[1, 16, 16], torch.tensor([1.0, 0]))
    torch.testing.assert_close(out.depth[:, 16, 16], torch.tensor([400.0, 400.0]))


@pytest.mark.parametrize("antialiased", [False, True])
def test_gradients_reach_colors_and_background(antialiased: bool):
    g = torch.Generator().manual_seed(2)
    vertices = torch.rand(2, 12, 3, generator=g) * 100 - 50
    triangles = torch.randint(0, 12, (9, 3), generator=g)
    viewmats, Ks = front(7, 9, 40.0)
    viewmats, Ks = viewmats.expand(2, 4, 4), Ks.expand(2, 3, 3)
    colors = torch.rand(2, 12, 3, generator=g).requires_grad_()
    background = torch.rand(3, generator=g).requires_grad_()
    weights = torch.randn(2, 7, 9, 3, generator=g)

    def loss(c: Tensor, b: Tensor) -> Tensor:
        out = render(vertices, triangles, c, viewmats, Ks, 7, 9, b, antialiased=antialiased, supersample=2)
        return (out.image * weights).sum()

    gradients = torch.autograd.grad(loss(colors, background), (colors, background))
    for tensor, gradient in zip((colors, background), gradients, strict=True):
        direction = torch.randn(tensor.shape, generator=g)
        moved = (tensor + direction).detach()
        change = loss(*((moved, background) if tensor is colors else (colors, moved))) - loss(colors, background)
        assert float(gradient.abs().sum()) > 0.1
        assert float(change.detach()) == pytest.approx(float((gradient * direction).sum()), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_gradients_of_area_and_depth_reach_vertices_and_cameras(backend: Backend, device: str):
    """A plate that comes 1 mm nearer grows by 2 / distance of its area, and its depth falls by 1 mm in every pixel."""
    vertices, triangles = (a.to(device) for a in plate(half=51.3))
    viewmats, Ks = (a.to(device) for a in front(31, 35, 60.0))
    vertices.requires_grad_()
    viewmats.requires_grad_()
    out = render(vertices, triangles, torch.ones(1, 4, 1, device=device), viewmats, Ks, 31, 35, backend=backend)
    area = out.mask.sum()
    assert float(area.detach()) == pytest.approx((2 * 51.3 * 60 / 500) ** 2, rel=5e-3)  # but for the corners
    to_vertices, to_viewmats = torch.autograd.grad(area, (vertices, viewmats), retain_graph=True)
    assert float(to_vertices[..., 2].sum()) == pytest.approx(2 * float(area.detach()) / 500, rel=0.1)
    assert float(to_viewmats[0, 2, 3]) == pytest.approx(-2 * float(area.detach()) / 500, rel=0.1)
    centre = torch.autograd.grad(out.depth[0, 15, 17], vertices)[0]
    assert float(centre[..., 2].sum()) == pytest.approx(-1.0, rel=1e-4)


def blob() -> tuple[Tensor, Tensor]:
    """A bumpy closed surface of large triangles: vertices [1, 5, 3], triangles [6, 3]."""
    vertices = torch.tensor([[[-60.0, -50, 20], [70, -40, 0], [10, 65, 10], [0, 0, 80], [5, 5, -60]]])
    return vertices, torch.tensor([[0, 1, 3], [1, 2, 3], [2, 0, 3], [1, 0, 4], [2, 1, 4], [0, 2, 4]])


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_gradients_agree_with_finite_differences(backend: Backend, antialiased: bool, device: str):
    """Of everything that has one, inside the surface and, if antialiased, at its outline away from its corners."""
    g = torch.Generator().manual_seed(0)
    vertices, triangles = blob()
    viewmats, Ks = look_at(torch.tensor([[30.0, 20, 400]]), torch.zeros(1, 3)), front(24, 28, 60.0)[1]
    colors = torch.rand(1, 5, 3, generator=g)
    if antialiased:  # the blend is exact for one colour along an edge, and jumps a little with others
        colors = colors[:, :1].repeat(1, 5, 1)
    inputs = [a.to(device).requires_grad_() for a in (vertices, colors, viewmats, torch.rand(3, generator=g))]
    y, x = torch.meshgrid(torch.arange(24) + 0.5, torch.arange(28) + 0.5, indexing="ij")
    corners = project(to_camera(vertices, viewmats), Ks)[0]
    clear = (torch.stack([x, y], -1)[:, :, None] - corners).norm(dim=-1).amin(-1) > 3
    covered = render(vertices, triangles, colors, viewmats, Ks, 24, 28, antialiased=False).mask
    around = torch.nn.functional.avg_pool2d(covered, 3, 1, 1)[0]
    steady = (around < 0.05) | (around > 0.95)  # hard edges and depth jump at the outline
    weights = torch.randn(24, 28, 5, generator=g)
    weights[..., :4] *= (clear if antialiased else steady)[..., None]
    weights[..., 4] *= 0.01 * steady
    weights = weights.double().to(device)

    def loss(tensors: list[Tensor]) -> Tensor:
        vertices, colors, viewmats, background = tensors
        scene = vertices, triangles.to(device), colors, viewmats, Ks.to(device), 24, 28, background
        out = render(*scene, backend=backend, antialiased=antialiased)
        depth = torch.where(out.depth < math.inf, out.depth, 0.0)
        return (torch.cat([out.image, out.mask[..., None], depth[..., None]], -1) * weights).sum()

    step = 1e-2
    for i, gradient in enumerate(torch.autograd.grad(loss(inputs), inputs)):
        direction = torch.randn(inputs[i].shape, generator=torch.Generator().manual_seed(i))
        if i == 2:
            direction[:, :, :3] = 0  # stays a rotation
            direction[:, 3] = 0
        direction = direction.to(device)
        ends = [loss([*inputs[:i], inputs[i].detach() + s * direction, *inputs[i + 1 :]]) for s in (step, -step)]
        change = float((ends[0] - ends[1]).detach()) / (2 * step)
        assert float((gradient * direction).sum()) == pytest.approx(change, rel=1e-2, abs=1e-2), i


@pytest.mark.parametrize("name", [name for name in CALLS if name not in ("from_opengl", "from_pytorch3d", "look_at")])
def test_autocast_changes_nothing(name: str):
    """A network's reduced precision must not reach coordinates, light and geometry: 8 bits are whole pixels."""
    op, good = CALLS[name]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = op(**good)
    outside = op(**good)
    if isinstance(outside, (Fragments, Rendering)):
        inside, outside = tuple(vars(inside).values()), tuple(vars(outside).values())
    torch.testing.assert_close(inside, outside, rtol=0, atol=0, equal_nan=True)


def test_sums_have_the_same_bits_on_two_cores():
    """Where many pixels add to few vertices."""
    vertices, triangles = blob()
    points = (vertices * torch.tensor([1.0, -1, -1]) + torch.tensor([0.0, 0, 300])).contiguous()
    fragments = rasterize(points, triangles, front(512, 512, 1000.0)[1], 512, 512)
    weights = torch.randn(1, 512, 512, 3, generator=torch.Generator().manual_seed(0))
    attributes = torch.rand(1, 5, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    gradients = []
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for _ in range(8):
            loss = (interpolate(attributes, triangles, fragments) * weights).sum()
            gradients += torch.autograd.grad(loss, attributes)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, gradients[0]) for a in gradients)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_training_goes_on_after_evaluation_in_inference_mode(backend: Backend, device: str):
    vertices, triangles = (a.to(device) for a in blob())
    viewmats, Ks = (a.to(device) for a in front(15, 15, 40.0))
    colors = torch.ones(1, 5, 3, device=device)
    with torch.inference_mode():
        shown = render(vertices, triangles, colors, viewmats, Ks, 15, 15, backend=backend)
        normals = vertex_normals(vertices, triangles, backend)
    vertices.requires_grad_()
    out = render(vertices, triangles, colors, viewmats, Ks, 15, 15, backend=backend)
    again = vertex_normals(vertices, triangles, backend)
    (out.mask.sum() + again[..., 0].sum()).backward()
    assert vertices.grad is not None and float(vertices.grad.abs().sum()) > 0
    assert torch.equal(shown.image, out.image) and torch.equal(normals, again)


@pytest.mark.parametrize("channels", [0, 1, 16])
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_any_number_of_channels(backend: Backend, channels: int, device: str):
    vertices, triangles = (a.to(device) for a in blob())
    viewmats, Ks = (a.to(device) for a in front(15, 17, 40.0))
    colors = torch.rand(1, 5, channels, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()
    background = torch.zeros(channels, device=device)
    out = render(vertices, triangles, colors, viewmats, Ks, 15, 17, background, backend=backend)
    assert out.image.shape == (1, 15, 17, channels)
    (gradient,) = torch.autograd.grad(out.image.sum(), colors)
    if channels:  # every channel is drawn by the same weights, whose sum is the mask
        torch.testing.assert_close(gradient, gradient[..., :1].expand_as(gradient), rtol=0, atol=0)
        torch.testing.assert_close(gradient[..., 0].sum(), out.mask.sum())


def test_near_goes_with_the_unit():
    vertices, triangles = blob()
    viewmats, Ks = front(15, 15, 40.0)
    metres = viewmats.clone()
    metres[:, :3, 3] /= 1000
    millimetres = render(vertices, triangles, torch.ones(1, 5, 1), viewmats, Ks, 15, 15)
    small = render(vertices / 1000, triangles, torch.ones(1, 5, 1), metres, Ks, 15, 15, near=1e-3)
    torch.testing.assert_close(small.mask, millimetres.mask)
    torch.testing.assert_close(small.depth * 1000, millimetres.depth)
    cut = render(vertices, triangles, torch.ones(1, 5, 1), viewmats, Ks, 15, 15, near=480.0)
    assert (cut.depth >= 480).all() and (millimetres.depth < 480).any()


@pytest.mark.parametrize("antialiased", [False, True])
def test_backends_draw_the_same(antialiased: bool, device: str):
    g = torch.Generator().manual_seed(7)
    vertices = (torch.rand(1, 40, 3, generator=g) * 160 - 80).to(device)
    triangles = torch.randint(0, 40, (50, 3), generator=g, dtype=torch.int32).to(device)
    colors = torch.rand(2, 40, 4, generator=g).to(device)
    viewmats = look_at(torch.tensor([[0.0, 0, 500], [200, 100, 300]]), torch.zeros(2, 3)).to(device)
    Ks = front(21, 27, 50.0)[1].expand(2, 3, 3).to(device)
    pictures = [
        render(vertices, triangles, colors, viewmats, Ks, 21, 27, None, b, antialiased) for b in ("torch", "triton")
    ]
    assert float(pictures[0].mask.mean()) > 0.2
    torch.testing.assert_close(pictures[0].image, pictures[1].image, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pictures[0].mask, pictures[1].mask, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pictures[0].depth, pictures[1].depth, rtol=1e-5, atol=0)


def test_batch_equals_one_by_one_and_repeats_bitwise():
    g = torch.Generator().manual_seed(3)
    vertices = torch.rand(3, 30, 3, generator=g) * 200 - 100
    triangles = torch.randint(0, 30, (40, 3), generator=g, dtype=torch.int32)
    colors = torch.rand(3, 30, 3, generator=g)
    eyes = torch.nn.functional.normalize(torch.randn(3, 3, generator=g), dim=-1) * 400
    viewmats, Ks = look_at(eyes, torch.zeros(3, 3)), front(25, 31, 50.0)[1].expand(3, 3, 3)
    whole = render(vertices, triangles, colors, viewmats, Ks, 25, 31, supersample=2)
    assert float(whole.mask.mean()) > 0.2
    assert same(whole, render(vertices, triangles, colors, viewmats, Ks, 25, 31, supersample=2))
    for f in range(3):
        s = slice(f, f + 1)
        one = render(vertices[s], triangles, colors[s], viewmats[s], Ks[s], 25, 31, supersample=2)
        assert same(one, Rendering(whole.image[s], whole.mask[s], whole.depth[s]))


def test_depth_is_the_rasterizers():
    vertices, triangles = plate()
    viewmats, Ks = front(20, 30, 60.0)
    out = render(vertices, triangles, torch.ones(1, 4, 1), viewmats, Ks, 20, 30)
    turned = vertices * torch.tensor([1.0, -1, -1]) + torch.tensor([0.0, 0, 500])
    torch.testing.assert_close(out.depth, rasterize(turned, triangles, Ks, 20, 30).depth)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_an_empty_batch_gives_an_empty_picture(backend: Backend):
    _, triangles = plate()
    vertices, colors = torch.zeros(0, 4, 3, requires_grad=True), torch.zeros(1, 4, 3, requires_grad=True)
    out = render(
        vertices,
        triangles,
        colors,
        torch.zeros(0, 4, 4),
        torch.zeros(0, 3, 3),
        5,
        7,
        backend=backend,
    )
    assert out.image.shape == (0, 5, 7, 3) and out.mask.shape == out.depth.shape == (0, 5, 7)
    gradients = torch.autograd.grad(out.image.sum() + out.depth.sum(), (vertices, colors))
    assert gradients[0].shape == (0, 4, 3) and not gradients[1].any()


def test_the_readme_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With fewer steps than printed there, the fit is already on its way."""
    text = (Path(__file__).parents[1] / "README.md").read_text()
    code = next(part for part in text.split("```python\n") if "optimizer.step()" in part).split("```")[0]
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code.replace("range(100)", "range(3)"), names)
    draw, target = names["draw"], names["target"]
    weights = names["weights"].detach()
    before, after = (float((draw(w) - target).square().mean()) for w in (0 * weights, weights))
    assert after < 0.8 * before
    assert Image.open("before-after-target.png").size == (3 * 224, 224)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("vertices", {"vertices": torch.zeros(4, 3)}),
        ("vertices", {"vertices": torch.zeros(1, 4, 3).double()}),
        ("vertices", {"vertices": torch.zeros(2, 4, 3)}),
        ("vertices", {"vertices": torch.zeros(1, 3, 4).transpose(1, 2)}),
        ("triangles", {"triangles": torch.zeros(0, 3, dtype=torch.int32)}),
        ("triangles", {"triangles": torch.tensor([[0, 1, 9]])}),
        ("colors", {"colors": torch.zeros(2, 4, 3)}),
        ("colors", {"colors": torch.zeros(3)}),
        ("colors", {"colors": torch.zeros(1, 4, 3, device="meta")}),
        ("viewmats", {"viewmats": torch.eye(4)[None].double(), "Ks": torch.eye(3)[None].double()}),
        ("viewmats", {"viewmats": torch.eye(4)}),
        ("Ks", {"Ks": torch.zeros(1, 3, 3)}),
        ("height", {"height": 0}),
        ("width", {"width": 2.0}),
        ("backend", {"backend": "opengl"}),
        ("supersample", {"supersample": 0}),
        ("background", {"background": torch.zeros(4)}),
        ("background", {"background": torch.zeros(6, 6, 3)}),
    ],
)
def test_bad_input_names_the_argument(name: str, change: dict):
    vertices, triangles = plate()
    viewmats, Ks = front(5, 6, 20.0)
    good = {
        "vertices": vertices,
        "triangles": triangles,
        "colors": torch.ones(1, 4, 3),
        "viewmats": viewmats,
        "Ks": Ks,
        "height": 5,
        "width": 6,
    }
    render(**good)
    with pytest.raises(ValueError, match=f"^{name} "):
        render(**(good | change))
