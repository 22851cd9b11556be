"""Textures against OpenGL (llvmpipe): wrapping, filters, choice of mip levels, cube maps.

llvmpipe filters float32 textures in float32. The level that it finds from derivatives is half of log2 of a square, and
its log2 is linear between powers of two, so that the level is up to 0.044 too low.
"""

import pytest
import torch
from torch import Tensor

from fmlfast.kernels.texture import BoundaryMode, FilterMode, texture, texture_mips
from tests.helpers.opengl_textures import sample

LOG2_ERROR = 0.044
ROUNDING = 4e-5  # of results up to 1: coordinates of 160 texels are rounded to 2^-17 of one, twice on each axis
FLAT: tuple[BoundaryMode, ...] = ("wrap", "clamp", "zero", "mirror")
MIPPED: tuple[FilterMode, ...] = ("linear-mipmap-nearest", "linear-mipmap-linear")
PIXELS = 31, 50


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=generator(seed))


def coordinates(seed: int, boundary_mode: str) -> Tensor:
    """[h, w, 2] from -1.5 to 2.5, or directions [h, w, 3], some of which are short and some long."""
    if boundary_mode == "cube":
        directions = torch.randn(*PIXELS, 3, generator=generator(seed))
        return directions * torch.exp2(8 * noise(seed + 1, *PIXELS, 1) - 4)
    return noise(seed, *PIXELS, 2) * 4 - 1.5


def unrelated_levels(seed: int, boundary_mode: str) -> list[Tensor]:
    """A texture and mips that are no means of it, so that a wrong level shows."""
    shape = (6, 16, 16, 3) if boundary_mode == "cube" else (32, 64, 3)
    full = noise(seed, 1, *shape)
    shapes = [x.shape[1:] for x in texture_mips(full, cube=boundary_mode == "cube")]
    return [full[0], *(noise(seed + 1 + k, *x) for k, x in enumerate(shapes))]


def look_up(
    levels: list[Tensor],
    uv: Tensor,
    filter_mode: FilterMode,
    boundary_mode: BoundaryMode,
    level: Tensor | None = None,
    uv_da: Tensor | None = None,
) -> Tensor:
    """Our texture of one frame; a level is a bias without derivatives."""
    first = lambda x: None if x is None else x[None]  # noqa: E731
    mips = [x[None] for x in levels[1:]]
    found = texture(levels[0][None], uv[None], first(uv_da), first(level), mips, filter_mode, boundary_mode)
    return found[0]


def footprint(seed: int, boundary_mode: str) -> Tensor:
    """Derivatives [h, w, 4 or 6] from less than a texel to more than a whole texture."""
    axes = 3 if boundary_mode == "cube" else 2
    return torch.randn(*PIXELS, 2 * axes, generator=generator(seed)) * torch.exp2(-8 * noise(seed + 1, *PIXELS, 1))


def scene(seed: int, boundary_mode: str) -> tuple[list[Tensor], Tensor, Tensor]:
    """Levels, coordinates and their derivatives."""
    return unrelated_levels(seed, boundary_mode), coordinates(seed, boundary_mode), footprint(seed, boundary_mode)


def assert_same(
    levels: list[Tensor],
    uv: Tensor,
    filter_mode: FilterMode,
    boundary_mode: BoundaryMode,
    level: Tensor | None = None,
    atol: float = ROUNDING,
) -> None:
    """Compares lookups at the base or at given levels."""
    found = look_up(levels, uv, filter_mode, boundary_mode, level)
    expected = sample(levels, uv, filter_mode, boundary_mode, level)
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def longer_side(uv_da: Tensor, height: int, width: int) -> Tensor:
    """The square of the pixel's longer side in texels, [h, w] float64."""
    sides = uv_da.double().view(*PIXELS, 2, 2) * torch.tensor([width, height])[:, None]
    return sides.square().sum(-2).amax(-1)


def side_on_a_cube(directions: Tensor, uv_da: Tensor, side: int) -> Tensor:
    """The same on the face that the direction meets, whose coordinates are (1 + minor / |major|) / 2."""
    order = directions.abs().argsort(-1)  # two minor axes, then the major one
    at = directions.double().gather(-1, order)
    slopes = uv_da.double().view(*PIXELS, 3, 2).gather(2, order[..., None].expand(-1, -1, -1, 2))
    major = at[..., 2:, None]
    across = (slopes[..., :2, :] * major - at[..., :2, None] * slopes[..., 2:, :]) / (2 * major * major.abs())
    return (side * across).square().sum(-2).amax(-1)


@pytest.mark.parametrize("boundary_mode", FLAT)
@pytest.mark.parametrize("size", [(16, 16), (13, 7), (1, 5), (64, 1)])
def test_nearest_and_linear(size: tuple[int, int], boundary_mode: BoundaryMode):
    texels, uv = [noise(1, *size, 4)], coordinates(2, boundary_mode)
    assert_same(texels, uv, "nearest", boundary_mode, atol=0)
    assert_same(texels, uv, "linear", boundary_mode)


@pytest.mark.parametrize("boundary_mode", FLAT)
def test_between_two_texels(boundary_mode: BoundaryMode):
    """Coordinates are multiples of half a texel, where nearest must round as OpenGL says: down."""
    texels = [noise(3, 8, 16, 2)]
    v, u = torch.meshgrid(torch.arange(-20, 41) / 16, torch.arange(-40, 81) / 32, indexing="ij")
    uv = torch.stack([u, v], -1)
    assert_same(texels, uv, "nearest", boundary_mode, atol=0)
    assert_same(texels, uv, "linear", boundary_mode)


@pytest.mark.parametrize("filter_mode", MIPPED)
@pytest.mark.parametrize("boundary_mode", [*FLAT, "cube"])
def test_filtering_of_a_given_level(boundary_mode: BoundaryMode, filter_mode: FilterMode):
    levels, uv = unrelated_levels(4, boundary_mode), coordinates(5, boundary_mode)
    level = noise(6, *PIXELS) * (len(levels) + 2) - 1.5
    assert_same(levels, uv, filter_mode, boundary_mode, level)


@pytest.mark.parametrize("boundary_mode", FLAT)
def test_the_level_is_of_the_longer_side(boundary_mode: BoundaryMode):
    """Each side is exact: OpenGL's as llvmpipe's logarithm has it, ours as log2 has it."""
    levels, uv, uv_da = scene(7, boundary_mode)
    square = longer_side(uv_da, *levels[0].shape[:2])
    mantissa, exponent = torch.frexp(square)
    llvmpipes = (exponent - 2 + 2 * mantissa) / 2
    exact = square.log2() / 2
    assert 0.8 * LOG2_ERROR < (exact - llvmpipes).max() <= LOG2_ERROR and exact.min() < 0 < 6 < exact.max()
    by_level = lambda level: sample(levels, uv, "linear-mipmap-linear", boundary_mode, level=level.float())  # noqa: E731
    drawn = sample(levels, uv, "linear-mipmap-linear", boundary_mode, uv_da=uv_da)
    torch.testing.assert_close(drawn, by_level(llvmpipes), rtol=0, atol=ROUNDING)
    found = look_up(levels, uv, "linear-mipmap-linear", boundary_mode, uv_da=uv_da)
    torch.testing.assert_close(found, by_level(exact), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("bias", [0.0, 0.7, -1.3])
@pytest.mark.parametrize("boundary_mode", [*FLAT, "cube"])
def test_choice_of_one_level(boundary_mode: BoundaryMode, bias: float):
    """Pixels whose level is nearly half way between two are left out: the logarithm decides."""
    levels, uv, uv_da = scene(8, boundary_mode)
    mode: FilterMode = "linear-mipmap-nearest"
    expected = sample(levels, uv, mode, boundary_mode, uv_da=uv_da, bias=bias)
    found = look_up(levels, uv, mode, boundary_mode, torch.full(PIXELS, bias), uv_da)
    differ = (found - expected).abs().amax(-1) > ROUNDING
    shifted = look_up(levels, uv, mode, boundary_mode, torch.full(PIXELS, bias - LOG2_ERROR), uv_da)
    decided = (found == shifted).all(-1)
    assert decided.double().mean() > 0.9 and not (differ & decided).any()


@pytest.mark.parametrize("bias", [0.0, 0.7, -1.3])
@pytest.mark.parametrize("boundary_mode", [*FLAT, "cube"])
def test_trilinear_between_levels_found_from_derivatives(boundary_mode: BoundaryMode, bias: float):
    """Within what llvmpipe's logarithm may move the result by: its own level, or one a little higher."""
    levels, uv, uv_da = scene(9, boundary_mode)
    mode: FilterMode = "linear-mipmap-linear"
    expected = sample(levels, uv, mode, boundary_mode, uv_da=uv_da, bias=bias)
    raised, found, lowered = (
        look_up(levels, uv, mode, boundary_mode, torch.full(PIXELS, bias + shift), uv_da)
        for shift in (LOG2_ERROR, 0.0, -LOG2_ERROR)
    )
    # Linear within a level, so that the ends of the interval bound it but where it holds a whole level.
    slack = (found - lowered).abs() + (raised - found).abs() + ROUNDING
    assert ((found - expected).abs() <= slack).all()
    assert slack.mean() < 0.03


@pytest.mark.parametrize("bias", [0.0, 1.0, -0.5])
@pytest.mark.parametrize("filter_mode", MIPPED)
@pytest.mark.parametrize("boundary_mode", [*FLAT, "cube"])
def test_whole_and_half_levels_found_from_derivatives(
    boundary_mode: BoundaryMode, filter_mode: FilterMode, bias: float
):
    """llvmpipe's logarithm is exact where the longer side is a power of the square root of 2: no slack is left."""
    levels, uv, uv_da = scene(10, boundary_mode)
    step = 1.0 if filter_mode == "linear-mipmap-nearest" else 0.5  # half way between two levels is a tie
    fraction = 0.0 if step == 0.5 else -bias % 1 + 0.25
    wanted = torch.randint(-2, 14, PIXELS, generator=generator(11)) * step + fraction
    square = side_on_a_cube(uv, uv_da, 16) if boundary_mode == "cube" else longer_side(uv_da, *levels[0].shape[:2])
    uv_da = (uv_da * (wanted.double().exp2() / square.sqrt())[..., None]).float()
    expected = sample(levels, uv, filter_mode, boundary_mode, uv_da=uv_da, bias=bias)
    found = look_up(levels, uv, filter_mode, boundary_mode, torch.full(PIXELS, bias), uv_da)
    torch.testing.assert_close(found, expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("filter_mode", ["nearest", "linear"])
@pytest.mark.parametrize("side", [1, 2, 5, 16])
def test_cube_maps(side: int, filter_mode: FilterMode):
    texels, directions = [noise(11, 6, side, side, 4)], coordinates(12, "cube")
    assert_same(texels, directions, filter_mode, "cube", atol=0 if filter_mode == "nearest" else ROUNDING)


def test_cube_maps_along_edges_and_corners():
    """Directions whose two largest sizes differ by less than a texel, or all three."""
    texels, directions = [noise(13, 6, 4, 4, 3)], torch.randn(*PIXELS, 3, generator=generator(14)).sign()
    directions *= 1 - 0.3 * noise(15, *PIXELS, 3)
    directions[:16, :, 0] *= 0.5
    assert_same(texels, directions, "linear", "cube")
