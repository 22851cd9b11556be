"""Texture lookups and antialiasing by nvdiffrast's calls, and whole chains of them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import fmlfast.nvdiffrast as dr
from fmlfast.kernels.common.backend import choose_backend
from tests.helpers.soups import SQUARE, square

CONTEXT = dr.RasterizeCudaContext()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def at(*points: tuple[float, ...]) -> Tensor:
    """Coordinates [P, 2 or 3] as one picture of a row."""
    return torch.tensor(points)[None, None]


def test_texels_begin_at_s_t_0_and_boundaries_are_as_named():
    tex = torch.arange(8.0).view(1, 2, 4, 1)  # two rows of four
    centres = at((0.125, 0.25), (0.875, 0.25), (0.125, 0.75))
    for mode in ("nearest", "linear", "auto"):
        assert dr.texture(tex, centres, filter_mode=mode).flatten().tolist() == [0, 3, 4]
    beyond = at((1.125, 0.25), (-0.125, 0.25), (0.0, 0.25))
    for boundary, expected in {"wrap": [0, 3, 1.5], "clamp": [3, 0, 0], "zero": [0, 0, 0]}.items():
        assert dr.texture(tex, beyond, boundary_mode=boundary).flatten().tolist() == expected  # type: ignore[arg-type]
    assert dr.texture(tex + 2, at((0.0, 0.25)), boundary_mode="zero").item() == 1  # half of texel 0, half of nothing


def test_auto_means_trilinear_where_there_is_a_level():
    tex, uv, uv_da, bias = noise(2, 8, 8, 3), noise(2, 5, 6, 2, seed=1), 0.5 * noise(2, 5, 6, 4, seed=2), noise(2, 5, 6)
    assert torch.equal(dr.texture(tex, uv), dr.texture(tex, uv, uv_da, filter_mode="linear"))
    for level in ((uv_da, None), (None, bias), (uv_da, bias)):
        trilinear = dr.texture(tex, uv, *level, filter_mode="linear-mipmap-linear")
        assert torch.equal(dr.texture(tex, uv, *level), trilinear)
        assert not torch.equal(trilinear, dr.texture(tex, uv))
    assert torch.equal(dr.texture(tex[:1], uv), dr.texture(tex[:1].repeat(2, 1, 1, 1), uv))
    level = torch.full((2, 5, 6), 1.0)
    half = torch.nn.functional.avg_pool2d(tex.movedim(3, 1), 2).movedim(1, 3).contiguous()
    for mode in ("linear-mipmap-nearest", "linear-mipmap-linear"):
        assert torch.allclose(dr.texture(tex, uv, None, level, filter_mode=mode), dr.texture(half, uv), atol=1e-6)
    assert torch.equal(dr.texture(tex, uv, None, level, max_mip_level=0), dr.texture(tex, uv))


def test_lists_of_mipmaps_have_gradients_of_their_own_and_constructed_ones_pass_them_on():
    tex, uv, level = noise(1, 8, 8, 2), noise(1, 9, 9, 2, seed=1), torch.full((1, 9, 9), 1.5)
    tex.requires_grad_()
    weights = noise(1, 9, 9, 2, seed=3)

    def gradients(mip: object, *inputs: Tensor) -> list[Tensor]:
        image = dr.texture(tex, uv, mip_level_bias=level, mip=mip)  # type: ignore[arg-type]
        return list(torch.autograd.grad((image * weights).sum(), inputs, allow_unused=False))

    (inside,) = gradients(None, tex)
    constructed = dr.texture_construct_mip(tex)
    for _ in range(2):  # the stack's graph is not used up
        assert torch.equal(gradients(constructed, tex)[0], inside)
    assert torch.equal(dr.texture(tex.detach(), uv, None, level, constructed), dr.texture(tex, uv, None, level))
    own = [noise(1, 4, 4, 2, seed=4).requires_grad_(), noise(1, 2, 2, 2, seed=5).requires_grad_()]
    to_tex, *to_own = gradients(own, tex, *own)
    assert not to_tex.any()  # levels 1 and 2 alone are seen
    assert all(g.any() for g in to_own) and torch.allclose(to_own[0].sum() + to_own[1].sum(), weights.sum(), rtol=1e-5)
    one = dr.texture(tex, uv, None, level, own[:1])  # the level ends where the list does
    assert torch.equal(one, dr.texture(tex, uv, None, level, own, max_mip_level=1))
    for base in (tex, tex.detach()):
        short = dr.texture(base, uv, None, level, dr.texture_construct_mip(tex, 1))
        assert torch.equal(short, dr.texture(base, uv, None, level, max_mip_level=1))


def test_atlases_want_a_limit_of_levels():
    tex, uv, bias = noise(1, 8, 40, 1), noise(1, 2, 2, 2), torch.ones(1, 2, 2)
    with pytest.raises(ValueError, match="pass max_mip_level=3"):
        dr.texture(tex, uv, None, bias)
    with pytest.raises(ValueError, match="pass max_mip_level=3"):
        dr.texture_construct_mip(tex)
    assert dr.texture(tex, uv, None, bias, max_mip_level=3).isfinite().all()


def test_cube_maps_are_looked_up_by_directions_and_nothing_by_none():
    tex = torch.arange(6.0).view(1, 6, 1, 1, 1).expand(1, 6, 4, 4, 1).contiguous().requires_grad_()
    uv = at((2, 0, 0), (-1, 0, 0), (0, 3, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1), (0, 0, 0), (torch.nan, 1, 0))
    uv.requires_grad_()
    uv_da = torch.full((1, 1, 8, 6), 0.1).requires_grad_()
    image = dr.texture(tex, uv, uv_da, boundary_mode="cube", mip=dr.texture_construct_mip(tex, cube_mode=True))
    assert image.flatten().tolist() == [0, 1, 2, 3, 4, 5, 0, 0]
    (image + 1).square().sum().backward()
    for gradient in (tex.grad, uv.grad, uv_da.grad):
        assert gradient is not None and gradient.isfinite().all()
    assert tex.grad is not None and torch.allclose(tex.grad.sum(), torch.tensor(2.0 * 21))
    assert uv.grad is not None and not uv.grad[0, 0, 6:].any()


def wall(edge: float, height: int = 6, width: int = 8) -> tuple[Tensor, Tensor]:
    """A wall from the left border to a column, and its picture."""
    pos = square(0.0, 3.0)
    pos[1:3, 0] = 2 * edge / width - 1
    return pos[None].contiguous(), dr.rasterize(CONTEXT, pos[None], SQUARE, (height, width))[0]


@pytest.mark.parametrize("edge", [3.25, 3.75])
def test_a_pixel_at_a_silhouette_is_covered_in_part(edge: float):
    pos, rast = wall(edge)
    pos.requires_grad_()
    mask = dr.antialias((rast[..., 3:] > 0).float(), rast, pos, SQUARE)
    expected = torch.tensor([1, 1, 1, edge - 3, 0, 0, 0, 0])
    assert torch.allclose(mask[0, ..., 0], expected.expand(6, 8), atol=1e-5)
    (gradient,) = torch.autograd.grad(mask.sum(), pos)
    assert torch.allclose(gradient[0, 1:3, 0].sum(), torch.tensor(6 * 8 / 2.0), rtol=1e-4)  # rows, pixels a unit
    assert not gradient[0, [0, 3]].any() and not gradient[..., 2].any()


def test_options_of_antialias_change_gradients_only_as_they_say():
    pos = square(0.0, 0.61)[None].requires_grad_()  # ends between pixel centres
    rast = dr.rasterize(CONTEXT, pos, SQUARE, (16, 17))[0]
    color = noise(1, 16, 17, 3).requires_grad_()
    plain = dr.antialias(color, rast, pos, SQUARE)
    to_color, to_pos = torch.autograd.grad(plain.square().sum(), (color, pos))
    kept = dr.antialias_construct_topology_hash(SQUARE)
    boosted = dr.antialias(color, rast, pos, SQUARE.clone(), topology_hash=kept, pos_gradient_boost=3.0)
    assert torch.equal(boosted, plain)
    again = torch.autograd.grad(boosted.square().sum(), (color, pos))
    assert to_pos.any() and torch.allclose(again[1], 3 * to_pos) and torch.equal(again[0], to_color)
    assert torch.equal(dr.antialias(color, rast.expand(1, -1, -1, -1), pos[0], SQUARE), plain)
    two = dr.antialias(color.repeat(2, 1, 1, 1), rast.repeat(2, 1, 1, 1), pos, SQUARE)
    assert torch.allclose(two, plain.expand_as(two), atol=1e-6)
    hidden = dr.antialias(color, rast * 0, pos, SQUARE)
    assert torch.equal(hidden, color)


Scene = dict[str, Tensor]


def scene(dtype: torch.dtype = torch.float32) -> Scene:
    """Two tilted squares, one before the other, a texture, and weights of the loss."""
    pos = torch.cat([square(0.3, 0.8, dtype=torch.float64), square(-0.3, 0.5, 0.3, dtype=torch.float64)])
    pos = pos + 0.15 * (noise(2, 8, 4, seed=6).double() - 0.5)
    uv = torch.cat([square(0, 1.0)[:, :2], square(0, 0.7)[:, :2].flip(1)])[None] + 0.2 * noise(1, 8, 2, seed=7)
    found = {"pos": pos * (0.7 + noise(2, 8, 1, seed=8)), "uv": uv, "tex": noise(1, 16, 16, 3, seed=9)}
    return {name: value.to(dtype) for name, value in found.items()}


def draw(pos: Tensor, uv: Tensor, tex: Tensor) -> Tensor:
    tri = torch.cat([SQUARE, SQUARE + 4]).to(pos.device)
    rast, rast_db = dr.rasterize(CONTEXT, pos, tri, (21, 23))
    place, slopes = dr.interpolate(uv, rast, tri, rast_db, "all")
    color = torch.where(rast[..., 3:] > 0, dr.texture(tex, place, slopes), 0.25)
    return dr.antialias(color, rast, pos, tri)


def loss(image: Tensor) -> Tensor:
    return (image * noise(2, 21, 23, 3, seed=10).to(image)).sum()


def differentiated(values: Scene) -> tuple[Tensor, Scene]:
    """The picture, and gradients of the loss."""
    values = {name: value.detach().requires_grad_() for name, value in values.items()}
    image = draw(**values)
    return image.detach(), dict(zip(values, torch.autograd.grad(loss(image), list(values.values())), strict=True))


@pytest.mark.parametrize("name", ["pos", "uv", "tex"])
def test_gradients_through_the_whole_chain_are_those_of_finite_differences(name: str):
    values = scene(torch.float64)
    gradient = differentiated(values)[1][name]
    for seed in range(4):
        way = noise(*gradient.shape, seed=20 + seed).double() - 0.5
        up, down = (loss(draw(**values | {name: values[name] + step * way})) for step in (1e-6, -1e-6))
        expected = float(up - down) / 2e-6
        assert abs(float((gradient * way).sum()) - expected) < 1e-5 * abs(expected) + 1e-7


@pytest.fixture(scope="module")
def expected() -> tuple[Tensor, Scene]:
    """Picture and gradients in float64."""
    return differentiated(scene(torch.float64))


def test_autocast_inference_and_the_default_dtype_change_no_bit():
    values = scene()
    image = draw(**values)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        assert torch.equal(draw(**values), image)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(draw(**values), image) and image.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_no_pictures_give_no_pictures():
    values = scene()
    none = values["pos"][:0].requires_grad_()
    image = draw(none, values["uv"], values["tex"])
    assert image.shape == (0, 21, 23, 3)
    assert torch.autograd.grad(image.sum(), none)[0].shape == (0, 8, 4)


def test_second_derivatives_are_refused():
    pos, tex = scene()["pos"].requires_grad_(), scene()["tex"].requires_grad_()
    (gradient,) = torch.autograd.grad(draw(pos, scene()["uv"], tex).square().sum(), pos, create_graph=True)
    with pytest.raises(RuntimeError, match="has no second derivatives"):
        gradient.sum().backward()


@pytest.fixture
def by_kernels(expected: tuple[Tensor, Scene], monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets operations choose their kernels, which run in the interpreter where there is no GPU."""
    for op in ("rasterize_clip", "interpolate", "interpolate_derivatives", "texture", "antialias"):
        monkeypatch.setattr(f"fmlfast.kernels.{op}.choose_backend", lambda _, tensor: choose_backend("triton", tensor))


def check_picture(device: str, expected: tuple[Tensor, Scene]) -> None:
    values = {name: value.to(device) for name, value in scene().items()}
    image, found = differentiated(values)
    again, other = differentiated(values)
    assert torch.equal(image, again) and all(torch.equal(other[name], found[name]) for name in found)
    assert float((image.cpu() - expected[0]).abs().max()) < 1e-4
    for name, gradient in found.items():
        assert float((gradient.cpu() - expected[1][name]).norm() / expected[1][name].norm()) < 1e-3, name


def test_plain_torch_gives_the_same_bits_again_and_those_of_float64(
    expected: tuple[Tensor, Scene], poisoned_memory: None
):
    check_picture("cpu", expected)


def test_kernels_give_the_same_bits_again_and_those_of_float64(
    device: str, expected: tuple[Tensor, Scene], by_kernels: None, poisoned_memory: None
):
    check_picture(device, expected)


WRONG: Any = dr
"""The module to call with arguments of wrong types."""
TEX, UV = noise(2, 4, 4, 1), noise(2, 3, 3, 2)
POS, RAST = wall(3.25)
COLOR = noise(1, 6, 8, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dr.texture(TEX[0], UV), r"^tex must be \[N, H, W, C\], not \[4, 4, 1\]"),
        (lambda: dr.texture(TEX[:, None], UV), "^tex is .* cube maps have 5 dimensions, boundary_mode='cube'"),
        (lambda: dr.texture(TEX, UV, boundary_mode="cube"), "^tex is .* cube maps have 5 dimensions"),
        (lambda: dr.texture_construct_mip(TEX[:, None]), "^tex is .* cube_mode=True"),
        (lambda: dr.texture(TEX, UV[..., :1]), r"^uv must be \[N, h, w, 2\], not \[2, 3, 3, 1\]"),
        (lambda: dr.texture(TEX, UV[:1]), "^tex must be those of 1 pictures or of 1, as uv has 1, not 2"),
        (lambda: WRONG.texture(TEX, UV, "all"), "^uv_da must be a tensor, not str"),
        (lambda: dr.texture(TEX, UV, None, UV), r"^mip_level_bias must be \[2, 3, 3\], not \[2, 3, 3, 2\]"),
        (lambda: dr.texture(TEX, UV, UV), r"^uv_da must be \[2, 3, 3, 4\]"),
        (lambda: WRONG.texture(TEX, UV, mip=TEX), "^mip must be a list or what texture_construct_mip returned"),
        (lambda: dr.texture(TEX, UV, mip=[TEX[:1]]), r"^mip\[0\] must be \[2, h, w, 1\], not \[1, 4, 4, 1\]"),
        (
            lambda: dr.texture(TEX, UV, mip=dr.texture_construct_mip(TEX[:1])),
            r"^mip is of a texture \[1, 4, 4, 1\], but tex is \[2, 4, 4, 1\]",
        ),
        (lambda: WRONG.texture(TEX, UV, filter_mode="cubic"), "^filter_mode must be one of 'auto', 'nearest'"),
        (lambda: WRONG.texture(TEX, UV, boundary_mode="border"), "^boundary_mode must be one of 'wrap', 'clamp'"),
        (lambda: dr.texture(TEX, UV, max_mip_level=-1), "^max_mip_level must be None or an int of at least 0"),
        (lambda: dr.antialias(COLOR[0], RAST, POS, SQUARE), r"^color must be \[N, H, W, C\]"),
        (lambda: dr.antialias(COLOR, RAST[:, 1:], POS, SQUARE), r"^rast must be \[1, 6, 8, 4\], not \[1, 5, 8, 4\]"),
        (lambda: dr.antialias(COLOR, RAST, POS[..., :3], SQUARE), r"^pos must be \[V, 4\], not \[4, 3\]"),
        (lambda: dr.antialias(COLOR, RAST, POS.double(), SQUARE), "^pos must be float32, not float64"),
        (lambda: dr.antialias(COLOR, RAST * 2, POS, SQUARE[:1]), "^rast holds triangle 1, but tri only 1"),
        (lambda: WRONG.antialias(COLOR, RAST, POS, SQUARE, SQUARE), "^topology_hash must be what antialias_"),
    ],
)
def test_wrong_arguments_are_named(call: Callable[[], object], message: str):
    with pytest.raises(ValueError, match=message):
        call()
