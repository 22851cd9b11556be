"""Texture lookups: against OpenGL's specification one sample at a time, its conventions, what is refused."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.texture import BoundaryMode, FilterMode, texture, texture_mips
from tests.helpers.texture_oracle import lookup

backends = pytest.mark.parametrize("backend", ["torch", "triton"])
FILTERS: tuple[FilterMode, ...] = ("nearest", "linear", "linear-mipmap-nearest", "linear-mipmap-linear")
BOUNDARIES: tuple[BoundaryMode, ...] = ("wrap", "clamp", "zero", "mirror", "cube")

pytestmark = pytest.mark.usefixtures("poisoned_memory", "small_programs")


def scene(
    seed: int, boundary: str, size: tuple[int, int] = (8, 16), textures: int = 2, channels: int = 3
) -> dict[str, Any]:
    """Two frames of 7 x 9 random lookups, in and around the texture, at levels below, among and above those it has."""
    g = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(*shape, generator=g)  # noqa: E731
    cube = boundary == "cube"
    texels = rand(textures, *((6, size[0], size[0]) if cube else size), channels) * 2 - 1
    if cube:
        uv = torch.nn.functional.normalize(torch.randn(2, 7, 9, 3, generator=g), dim=-1)
        uv[:, :2] = (uv[:, :2] * 1.3).clamp(-0.5, 0.5) * (1 + 0.01 * rand(2, 2, 9, 3))  # near edges and corners
        uv *= 1 + 3 * rand(2, 7, 9, 1)
    else:
        # A cell's middle fifths: float32 and float64 see the same texels, in every level with even sides below.
        cell = torch.stack([torch.randint(-2 * n, 3 * n, (2, 7, 9), generator=g) for n in size[::-1]], -1)
        inside = 0.1 + 0.3 * rand(2, 7, 9, 2) + 0.5 * (rand(2, 7, 9, 2) > 0.5)
        uv = (cell + inside) / torch.tensor(size[::-1])
    length = 2 ** (5 * rand(2, 7, 9, 1) - 1) / max(size)
    uv_da = torch.randn(2, 7, 9, 2 * uv.shape[-1], generator=g) * length
    return {"texels": texels, "uv": uv, "uv_da": uv_da, "mip_level_bias": rand(2, 7, 9) - 0.5}


def looked_up(given: dict[str, Any], mips: list[Tensor], filter_mode: str, boundary: str) -> Tensor:
    """The same by the oracle."""
    levels = [x.double() for x in (given["texels"], *mips)]
    out = torch.zeros(*given["uv"].shape[:3], levels[0].shape[-1], dtype=torch.float64)
    for f, y, x in itertools.product(*map(range, out.shape[:3])):
        frame = [level[min(f, len(level) - 1)] for level in levels]
        uv, uv_da, bias = (given[k][f, y, x].tolist() for k in ("uv", "uv_da", "mip_level_bias"))
        out[f, y, x] = lookup(frame, uv, uv_da, bias, filter_mode, boundary)
    return out


def tolerance(given: dict[str, Any], backend: Backend) -> float:
    """Coordinates are right to 2^-24 of 3 textures, so are weights to that many texels; a level has 20 roundings."""
    largest = 2 * float(given["texels"].abs().max())
    return 1e-9 if backend == "torch" else largest * (3 * max(given["texels"].shape[-3:-1]) + 40) * 2**-23


def run(given: dict[str, Any], backend: Backend, device: str = "cpu", **more) -> Tensor:
    dtype = torch.float64 if backend == "torch" else torch.float32
    if "mips" in more:
        more["mips"] = [x.to(device, dtype) for x in more["mips"]]
    return texture(**{k: x.to(device, dtype) for k, x in given.items()}, **more, backend=backend).cpu().double()


@backends
@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("filter_mode", FILTERS)
def test_matches_the_specification(filter_mode: str, boundary: str, backend: Backend, device: str):
    given = scene(1, boundary)
    mips = texture_mips(given["texels"].double(), cube=boundary == "cube")
    found = run(given, backend, device, filter_mode=filter_mode, boundary_mode=boundary)
    expected = looked_up(given, mips, filter_mode, boundary)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance(given, backend))


@backends
@pytest.mark.parametrize(
    ("size", "textures", "channels"), [((1, 1), 1, 1), ((1, 63), 2, 5), ((500, 3), 1, 17), ((4, 1), 2, 2)]
)
@pytest.mark.parametrize("boundary", BOUNDARIES[:-1])
def test_any_size_and_number_of_channels(
    boundary: str, size: tuple[int, int], textures: int, channels: int, backend: Backend, device: str
):
    """Mips of sizes that cannot be halved are given, each side rounded down."""
    given = scene(2, boundary, size, textures, channels)
    g = torch.Generator().manual_seed(9)
    sides = [tuple(max(1, n >> k) for n in size) for k in range(1, max(size).bit_length())]
    mips = [torch.rand(textures, *side, channels, generator=g) for side in sides]
    for filter_mode in ("nearest", "linear-mipmap-linear"):
        found = run(given, backend, device, mips=mips, filter_mode=filter_mode, boundary_mode=boundary)
        expected = looked_up(given, mips, filter_mode, boundary)
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance(given, backend))


@backends
@pytest.mark.parametrize("size", [1, 2, 5])
def test_cube_maps_of_any_size(size: int, backend: Backend, device: str):
    given = scene(3, "cube", (size, size), 1, 2)
    for filter_mode in ("nearest", "linear"):
        found = run(given, backend, device, filter_mode=filter_mode, boundary_mode="cube")
        expected = looked_up(given, [], filter_mode, "cube")
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance(given, backend))


@backends
def test_cube_maps_have_no_seams(backend: Backend):
    """Both sides of an edge, and all sides of a corner, see the same."""
    g = torch.Generator().manual_seed(4)
    texels = torch.rand(1, 6, 4, 4, 3, generator=g)
    along = torch.linspace(-0.999, 0.999, 23)
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=2)))
    edges = torch.stack([signs[:, :1] + 0 * along, signs[:, 1:] + 0 * along, 0 * signs[:, :1] + along], -1)
    edges = torch.cat([edges.roll(k, -1) for k in range(3)]).view(1, -1, 1, 3)
    corners = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3))).view(1, -1, 1, 3)
    for points in (edges, corners):
        nudges = torch.cat([torch.eye(3), -torch.eye(3)]) * 1e-5
        directions = (points + nudges).contiguous()
        values = texture(texels, directions, filter_mode="linear", boundary_mode="cube", backend=backend)
        # A nudge of 1e-5 moves by 4 texels' differences of at most 1, times 1e-5.
        torch.testing.assert_close(values, values[:, :, :1].expand_as(values), rtol=0, atol=2e-4)
        assert (values[0, 0] - values[0, 1]).abs().max() > 1e-2


@backends
def test_places_are_those_of_opengl(backend: Backend):
    """Texel (row j, column i) is centred at ((i + 0.5) / W, (j + 0.5) / H); between two is their mean."""
    texels = torch.arange(8.0).view(1, 2, 4, 1)
    j, i = torch.meshgrid(torch.arange(2), torch.arange(4), indexing="ij")
    centres = torch.stack([(i + 0.5) / 4, (j + 0.5) / 2], -1)[None]
    for boundary, filter_mode in itertools.product(BOUNDARIES[:-1], FILTERS[:2]):
        found = texture(texels, centres, filter_mode=filter_mode, boundary_mode=boundary, backend=backend)
        assert torch.equal(found, texels)
    borders: dict[BoundaryMode, tuple[float, float]] = {
        "wrap": (1.5, 2.0),
        "clamp": (0.0, 0.0),
        "mirror": (0.0, 0.0),
        "zero": (0.0, 0.0),
    }
    for boundary, (left, top) in borders.items():
        uv = torch.tensor([[[[0.0, 0.25], [0.125, 0.0], [0.25, 0.5]]]])
        found = texture(texels, uv, boundary_mode=boundary, backend=backend)[0, 0, :, 0].tolist()
        assert found == [left, top, 2.5]


@backends
def test_faces_are_those_of_opengl(backend: Backend):
    """Table 8.19, a direction for a texel beside the corner of each face."""
    texels = torch.arange(6 * 16.0).view(1, 6, 4, 4, 1)
    s, t = -0.75, -0.25  # column 0, row 1
    directions = torch.tensor([[1, -t, -s], [-1, -t, s], [s, 1, t], [s, -1, -t], [s, -t, 1], [-s, -t, -1]])
    found = texture(texels, 3 * directions[None, None], boundary_mode="cube", backend=backend)
    torch.testing.assert_close(found.flatten(), 16.0 * torch.arange(6) + 4, rtol=0, atol=1e-4)


@backends
def test_level_is_log2_of_the_longer_side_in_texels(backend: Backend):
    """A texture whose level k holds k: what is looked up is the level."""
    levels = [torch.full((1, 1 << (5 - k), 1 << (6 - k), 1), float(k)) for k in range(6)]
    uv = torch.rand(1, 1, 6, 2, generator=torch.Generator().manual_seed(5))
    sides = torch.tensor([[0.1, 0, 0, 0], [3, 0.5, 4, 1], [1, 6, 2, 8], [4, 0, 0, 4], [0, 0, 0, 0], [0, 1e9, 0, 0]])
    uv_da = (sides / torch.tensor([64, 64, 32, 32])).view(1, 1, 6, 4)
    level = torch.tensor([0, math.log2(5), math.log2(10), 2, 0, 5])
    arguments: dict[str, Any] = {"mips": levels[1:], "backend": backend}
    found = texture(levels[0], uv, uv_da, **arguments).flatten()
    torch.testing.assert_close(found, level, rtol=0, atol=1e-5)
    bias = torch.tensor([2.25, -1, 0.5, -9, 2, -2]).view(1, 1, 6)
    expected = torch.tensor([0, math.log2(5) - 1, math.log2(10) + 0.5, 0, 0, 5])
    found = texture(levels[0], uv, uv_da, bias, **arguments).flatten()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    found = texture(levels[0], uv, None, bias, **arguments).flatten()
    torch.testing.assert_close(found, torch.tensor([2.25, 0, 0.5, 0, 2, 0]), rtol=0, atol=1e-5)
    rounded = torch.tensor([0.5, 0.51, 1.5, 2.6, -3, 9]).view(1, 1, 6)
    found = texture(levels[0], uv, None, rounded, filter_mode="linear-mipmap-nearest", **arguments).flatten()
    torch.testing.assert_close(found, torch.tensor([0.0, 1, 1, 3, 0, 5]), rtol=0, atol=1e-5)
    found = texture(levels[0], uv, None, 9 + rounded, max_mip_level=2, **arguments).flatten()
    torch.testing.assert_close(found, torch.full((6,), 2.0), rtol=0, atol=1e-5)


@backends
def test_auto_is_the_best_filter_there_is_a_level_for(backend: Backend):
    given = scene(6, "wrap")
    texels, uv = given["texels"], given["uv"]
    arguments: dict[str, Any] = {"uv_da": given["uv_da"], "mip_level_bias": given["mip_level_bias"]}
    best: tuple[tuple[str, FilterMode], ...] = (("", "linear"), *((k, FILTERS[3]) for k in arguments))
    for name, filter_mode in best:
        some: dict[str, Any] = {k: x for k, x in arguments.items() if k == name}
        expected = texture(texels, uv, **some, filter_mode=filter_mode, backend=backend)
        assert torch.equal(texture(texels, uv, **some, backend=backend), expected)
    mips = texture_mips(texels, backend=backend)
    for most in (None, 0, 2):
        made = texture(texels, uv, **arguments, max_mip_level=most, backend=backend)
        assert torch.equal(made, texture(texels, uv, **arguments, mips=mips[:most], backend=backend))


@backends
@pytest.mark.parametrize(
    ("filter_mode", "boundary"), [*((f, "cube") for f in FILTERS[1:]), *((FILTERS[0], b) for b in BOUNDARIES)]
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of NumPy in the interpreter
def test_what_is_no_number_gives_none(boundary: str, filter_mode: str, backend: Backend, device: str):
    """And nothing to the texels; the other pixels are as ever."""
    given = {k: x.to(device) for k, x in scene(7, boundary).items()}
    given["texels"] = given["texels"].requires_grad_()
    modes: dict[str, Any] = {"filter_mode": filter_mode, "boundary_mode": boundary, "backend": backend}
    good = texture(**given, **modes)
    broken = given | {k: given[k].clone() for k in ("uv", "uv_da", "mip_level_bias")}
    broken["uv"][0, 1, 2, 1] = torch.nan
    places = [(0, 1, 2)]
    if "mipmap" in filter_mode:
        broken["uv_da"][1, 3, 3, 2] = torch.nan
        broken["mip_level_bias"][1, 6, 8] = torch.nan
        places += [(1, 3, 3), (1, 6, 8)]
    found = texture(**broken, **modes)
    whole = torch.ones(2, 7, 9, dtype=torch.bool, device=device)
    for place in places:
        assert found[place].isnan().all()
        whole[place] = False
    assert torch.equal(found[whole], good[whole])
    upstream = torch.ones_like(good)
    (to_texels,) = torch.autograd.grad(found, given["texels"], upstream)
    (expected,) = torch.autograd.grad(good, given["texels"], upstream * whole[..., None])
    torch.testing.assert_close(to_texels, expected, rtol=1e-5, atol=1e-5)
