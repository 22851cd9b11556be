"""render(): colours, masks and depths of simple scenes, super-sampling, backgrounds, backends."""

import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from fmlfast.camera import look_at
from fmlfast.kernels.common.backend import Backend
from fmlfast.renderer import Fragments, Rendering, rasterize, render, vertex_normals
from tests.helpers.operations import CALLS
from tests.helpers.render_scenes import blob, front, plate


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


def test_the_example_of_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With fewer steps than printed there, the fit is already on its way."""
    text = (Path(__file__).parents[1] / "docs/renderer.md").read_text()
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
        ("vertices", {"vertices": torch.zeros(1, 4, 3).half()}),
        ("viewmats", {"vertices": torch.zeros(1, 4, 3).double()}),
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
