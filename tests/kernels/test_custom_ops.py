"""Operations as torch sees them: registered, compiled without a graph break, exported, differentiable once."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import fmlfast.nvdiffrast as dr
from fmlfast.kernels.antialias import antialias
from fmlfast.kernels.blendshape import linear_decode
from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.deform import deform, skin_displacements
from fmlfast.kernels.deviation import deviation
from fmlfast.kernels.interpolate import interpolate
from fmlfast.kernels.interpolate_derivatives import interpolate_derivatives
from fmlfast.kernels.normals import vertex_normals
from fmlfast.kernels.photometric import photometric
from fmlfast.kernels.photometric_pixels import photometric_pixels
from fmlfast.kernels.rasterize import rasterize
from fmlfast.kernels.rasterize_clip import rasterize_clip
from fmlfast.kernels.shading import shade_sh, shade_vertices
from fmlfast.kernels.sparsity import chromaticity, sparsity
from fmlfast.kernels.texture import texture, texture_mips
from fmlfast.kernels.visibility import vertex_visibility
from fmlfast.renderer import render
from tests.helpers.triangle_soup import HEIGHT, WIDTH, Scene

pytestmark = pytest.mark.usefixtures("poisoned_memory")
backends = pytest.mark.parametrize("backend", ["torch", "triton"])


def calls(scene: Scene, backend: Backend) -> dict[str, tuple[Any, ...]]:
    """Arguments of each registered operation."""
    drawn = rasterize(scene.vertices.detach(), scene.triangles, scene.Ks, HEIGHT, WIDTH, derivatives=True)
    seen, size = (scene.triangles, drawn.triangle_id), (HEIGHT, WIDTH)
    weights = drawn.barycentrics.clone().requires_grad_()
    assert drawn.derivatives is not None
    slopes = drawn.derivatives.clone().requires_grad_()
    none = None, None, None
    pictures = scene.uv, scene.uv_da, scene.bias
    found = {
        "interpolate": (scene.colors, *seen, weights, backend),
        "interpolate_derivatives": (scene.colors, *seen, slopes, backend),
        "rasterize": (scene.vertices, scene.triangles, scene.Ks, *none, *size, False, 1.0, True, backend),
        "rasterize, clip space": (scene.positions, scene.triangles, None, *none, *size, True, 0.0, False, backend),
        "antialias": (scene.image, scene.vertices, scene.triangles, scene.Ks, drawn.triangle_id, drawn.depth, backend),
        "texture": (scene.texels, scene.mips, *pictures, "linear-mipmap-linear", "wrap", 3, backend),
        "texture, one level": (scene.texels, None, scene.uv, None, None, "linear", "mirror", 0, backend),
    }
    known = scene.weights[:, 0] > 0
    found["sparsity"] = (scene.colors, scene.chroma, known, scene.edges, 80.0, 0.9, backend)
    found["vertex_visibility"] = (scene.vertices, -scene.vertices.detach(), scene.Ks, drawn.depth, backend)
    found["vertex_normals"] = (scene.vertices, scene.triangles, backend)
    found["shade_sh"] = (scene.colors, -scene.vertices.detach(), scene.sh, backend)
    counted, both = scene.weights[:, 1].clamp(min=0.0), (True, True)
    found["photometric"] = (scene.photos, scene.vertices, scene.Ks, scene.colors, counted, "geman", *both, backend)
    found["skin_displacements"] = (scene.colors, *scene.skin, 30, backend)
    found["deform"] = (*scene.template, scene.rotation, scene.translation, 30, backend)
    found["deform, without pose"] = (*scene.template, None, None, 30, backend)
    found["photometric_pixels"] = (scene.image, 0.5 * scene.image.detach(), None, "l1", True, backend)
    if backend == "triton":
        texture_mips(scene.texels, backend="triton")  # registers it, as the others
        linear_decode(scene.codes, scene.basis, scene.mean, "triton")
        chromaticity(scene.seen, scene.weights, "triton")
        deviation(scene.colors, scene.colors[0], "triton")
        shade_vertices(scene.vertices, scene.triangles, scene.colors, scene.sh, "triton")
        found["shade_vertices"] = (scene.vertices, scene.triangles, scene.colors, scene.sh, 1e-7)
        found["texture_mips"] = (scene.texels, 8, 4, 3)
        found["linear_decode"] = (scene.codes, scene.basis, scene.mean)
        found["chromaticity"] = (scene.seen, scene.weights)
        found["deviation"] = (scene.colors, scene.colors[0].detach().clone().requires_grad_())
    return found


KERNELS_ONLY = ["texture_mips", "linear_decode", "chromaticity", "deviation", "shade_vertices"]  # plain torch else
CONSTANT = ["vertex_visibility", "chromaticity"]
NAMES = [*calls(Scene(), "torch"), *KERNELS_ONLY]


@backends
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy in the interpreter
def test_opcheck_finds_nothing(name: str, backend: Backend):
    arguments = calls(Scene(), backend).get(name)
    if arguments is None:
        pytest.skip("plain torch, which needs no registration")
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    checks = checks[:3] if backend == "triton" else checks  # the last is slow in the interpreter
    torch.library.opcheck(getattr(torch.ops.fmlfast, name.split(",")[0]).default, arguments, test_utils=checks)


@backends
@pytest.mark.parametrize("name", [name for name in NAMES if name not in CONSTANT])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_second_derivatives_are_refused(name: str, backend: Backend):
    arguments = calls(Scene(), backend).get(name)
    if arguments is None:
        pytest.skip("plain torch, which has them")
    name = name.split(",")[0]
    out = getattr(torch.ops.fmlfast, name)(*arguments)
    out = out if isinstance(out, Tensor) else out[0]
    leaves = [x for x in arguments if isinstance(x, Tensor) and x.requires_grad]
    first = torch.autograd.grad(out.square().sum(), leaves, create_graph=True, allow_unused=True)
    total = sum(x.sum() for x in first if x is not None)
    assert isinstance(total, Tensor)
    with pytest.raises(RuntimeError, match=f"^{name} has no second derivatives"):
        total.backward()


def render_chain(scene: Scene, backend: Backend) -> tuple[tuple[Tensor, ...], list[Tensor]]:
    viewmats = torch.eye(4, dtype=scene.vertices.dtype).repeat(2, 1, 1)
    size = HEIGHT, WIDTH
    drawn = render(scene.vertices, scene.triangles, scene.colors, viewmats, scene.Ks, *size, backend=backend)
    return (drawn.image, drawn.mask, drawn.depth), [scene.vertices, scene.colors]


def camera_chain(scene: Scene, backend: Backend) -> tuple[tuple[Tensor, ...], list[Tensor]]:
    mesh = scene.triangles, scene.Ks
    drawn = rasterize(scene.vertices, *mesh, HEIGHT, WIDTH, derivatives=True, backend=backend)
    uv = interpolate(scene.colors[..., :2].contiguous(), scene.triangles, drawn, backend)
    uv_da = interpolate_derivatives(scene.colors, scene.triangles, drawn, (1, 0), backend)
    image = texture(scene.texels, uv, uv_da, boundary_mode="mirror", backend=backend)
    image = antialias(image, scene.vertices, *mesh, drawn, backend)
    return (image, drawn.depth), [scene.vertices, scene.colors, scene.texels]


def clip_chain(scene: Scene, backend: Backend) -> tuple[tuple[Tensor, ...], list[Tensor]]:
    near = rasterize_clip(scene.positions, scene.triangles, HEIGHT, WIDTH, backend=backend)
    far = rasterize_clip(scene.positions, scene.triangles, HEIGHT, WIDTH, behind=near, backend=backend)
    image = interpolate(scene.colors, scene.triangles, far, backend)
    return (image, far.triangle_id), [scene.positions, scene.colors]


def nvdiffrast_chain(scene: Scene, backend: Backend) -> tuple[tuple[Tensor, ...], list[Tensor]]:
    """In the order of nvdiffrast's own samples; the backend is the device's."""
    rast, rast_db = dr.rasterize(dr.RasterizeCudaContext(), scene.positions, scene.triangles, [HEIGHT, WIDTH])
    uv, uv_da = dr.interpolate(scene.colors[..., :2].contiguous(), rast, scene.triangles, rast_db, diff_attrs="all")
    image = dr.texture(scene.texels, uv, uv_da, filter_mode="linear-mipmap-linear", max_mip_level=2)
    image = dr.antialias(image, rast, scene.positions, scene.triangles)
    return (image, rast), [scene.positions, scene.colors, scene.texels]


def loss_chain(scene: Scene, backend: Backend) -> tuple[tuple[Tensor, ...], list[Tensor]]:
    """What training is made of."""
    colors = linear_decode(scene.codes, scene.basis, scene.mean, backend).unflatten(1, (30, 3))
    chroma, known = chromaticity(scene.seen, scene.weights, backend)
    costs = sparsity(colors, chroma, known, scene.edges, backend=backend)
    costs = costs + deviation(colors, scene.colors[0], backend)
    depth = rasterize(scene.vertices.detach(), scene.triangles, scene.Ks, HEIGHT, WIDTH, backend=backend).depth
    normals = vertex_normals(scene.vertices, scene.triangles, backend)
    shaded = shade_sh(colors, normals, scene.sh, backend)
    lit, _ = shade_vertices(scene.vertices, scene.triangles, scene.colors, scene.sh, backend)
    visible = vertex_visibility(scene.vertices, normals, scene.Ks, depth, backend)
    counted = scene.weights[:, 1].clamp(min=0.0)
    seen, sampled = photometric(scene.photos, scene.vertices, scene.Ks, shaded, counted, "l1", backend)
    costs = costs + seen + photometric_pixels(scene.image, 0.5 * scene.image.detach(), None, "geman", backend)
    costs = costs + skin_displacements(scene.vertices, *scene.skin, backend).square().mean((1, 2))
    posed = deform(*scene.template, scene.rotation, scene.translation, backend)
    costs = costs + (deform(*scene.template, backend=backend) - 1e-3 * posed).square().mean((1, 2, 3))
    leaves = [scene.codes, scene.basis, scene.mean, scene.colors, scene.vertices, scene.sh, scene.image]
    leaves += [*scene.template[:2], *scene.template[4:], scene.rotation, scene.translation]
    return (costs, shaded, lit, visible, sampled), leaves


Chain = Callable[[Scene, Backend], tuple[tuple[Tensor, ...], list[Tensor]]]
chains = pytest.mark.parametrize("chain", [render_chain, camera_chain, clip_chain, nvdiffrast_chain, loss_chain])
by_backend = pytest.mark.parametrize(
    ("chain", "backend"),
    [
        (render_chain, "torch"),
        (camera_chain, "torch"),
        (clip_chain, "torch"),
        (nvdiffrast_chain, "torch"),
        (loss_chain, "torch"),
        (camera_chain, "triton"),
        (loss_chain, "triton"),
    ],
)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def values(
    chain: Chain,
    backend: Backend,
    run: Callable[[Callable[..., Any]], Callable[..., Any]],
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    """What a chain returns and its gradients."""
    scene = Scene(dtype)
    out = run(lambda: chain(scene, backend)[0])()
    inputs = chain(scene, backend)[1]
    g = torch.Generator().manual_seed(6)
    moving = [x for x in out if x.requires_grad and x.isfinite().all()]
    upstream = [torch.randn(x.shape, generator=g, dtype=torch.float32).to(dtype) for x in moving]
    return [*(x.detach() for x in out), *torch.autograd.grad(moving, inputs, upstream)]


@by_backend
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_compiled_without_a_graph_break(chain: Chain, backend: Backend, fresh_compiler: None):
    plain = values(chain, backend, lambda f: f)
    compiled = values(chain, backend, lambda f: torch.compile(f, fullgraph=True, backend="aot_eager"))
    assert len(plain) == len(compiled)
    for a, b in zip(plain, compiled, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6, equal_nan=True)


@chains
def test_exported_program_computes_the_same(chain: Chain):
    scene = Scene()
    inputs = chain(scene, "torch")[1]
    names = {value: name for name, value in vars(scene).items() if isinstance(value, Tensor)}

    class Module(torch.nn.Module):
        def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
            for leaf, value in zip(inputs, given, strict=True):
                setattr(scene, names[leaf], value)
            return chain(scene, "torch")[0]

    expected = Module()(*inputs)
    exported = torch.export.export(Module(), tuple(inputs)).module()(*inputs)
    for a, b in zip(expected, exported, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6, equal_nan=True)


@by_backend
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("mode", ["autocast", "inference", "float64 by default"])
def test_modes_of_torch_change_no_bit(chain: Chain, backend: Backend, mode: str):
    def autocast(function: Callable[..., Any]) -> Callable[..., Any]:
        return torch.autocast("cpu", dtype=torch.bfloat16)(function)

    expected = values(chain, backend, lambda f: f)
    if mode == "autocast":
        got = values(chain, backend, autocast)
    elif mode == "inference":
        with torch.inference_mode():
            got = chain(Scene(), backend)[0]
        expected = expected[: len(got)]
    else:
        torch.set_default_dtype(torch.float64)
        try:
            got = values(chain, backend, lambda f: f)
        finally:
            torch.set_default_dtype(torch.float32)
    for a, b in zip(expected, got, strict=True):
        assert a.dtype == b.dtype and torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))


def out_of_bounds(backend: Backend) -> dict[str, tuple[Callable[[], object], str]]:
    """Calls that read beyond a tensor if nobody looks at the indices, and what they raise."""
    scene = Scene()
    size = HEIGHT, WIDTH
    corners, few = scene.triangles + 1, scene.triangles[:1]
    beyond = "^triangles hold the index 30, but there are 30 vertices"
    ranges = torch.tensor([[19, 2]], dtype=torch.int32)
    drawn = rasterize(scene.vertices.detach(), scene.triangles, scene.Ks, *size, derivatives=True)
    points, positions, colors = scene.vertices.detach(), scene.positions.detach(), scene.colors.detach()
    image = scene.image.detach()
    return {
        "rasterize": (lambda: rasterize(points, corners, scene.Ks, *size, backend=backend), beyond),
        "rasterize_clip": (
            lambda: rasterize_clip(positions[0], scene.triangles, *size, ranges=ranges, backend=backend),
            "^ranges must be first triangle and number of triangles, within the 20",
        ),
        "interpolate": (lambda: interpolate(colors, corners, drawn, backend), beyond),
        "interpolate, fragments": (lambda: interpolate(colors, few, drawn, backend), "^fragments hold a triangle"),
        "interpolate_derivatives": (lambda: interpolate_derivatives(colors, corners, drawn, None, backend), beyond),
        "antialias": (lambda: antialias(image, points, corners, scene.Ks, drawn, backend), beyond),
        "antialias, fragments": (
            lambda: antialias(image, points, few, scene.Ks, drawn, backend),
            "^fragments hold a triangle",
        ),
        "vertex_normals": (lambda: vertex_normals(points, corners, backend), beyond),
        "sparsity": (
            lambda: sparsity(colors, scene.chroma, scene.weights[:, 0] > 0, scene.edges + 1, backend=backend),
            "^edges hold the index 30, but there are 30 vertices",
        ),
        "deform": (
            lambda: deform(scene.template[0], colors[:, :20], *scene.skin, *scene.template[4:], backend=backend),
            "^skin_indices hold the index 28, but there are 20 nodes",
        ),
        "skin_displacements": (
            lambda: skin_displacements(colors[:, :20], *scene.skin, backend),
            "^skin_indices hold the index 28, but there are 20 nodes",
        ),
    }


@backends
@pytest.mark.parametrize("name", out_of_bounds("torch"))
def test_compiled_programs_do_not_read_out_of_bounds(name: str, backend: Backend, fresh_compiler: None):
    call, message = out_of_bounds(backend)[name]
    with pytest.raises(ValueError, match=message):
        torch.compile(call, fullgraph=True, backend="eager")()


@chains
def test_float64_is_computed_in_float64(chain: Chain):
    single = values(chain, "torch", lambda f: f)
    double = values(chain, "torch", lambda f: f, torch.float64)
    gradients = len(chain(Scene(), "torch")[1])
    for n, (a, b) in enumerate(zip(single, double, strict=True)):
        assert b.dtype == (torch.float64 if a.dtype == torch.float32 else a.dtype)
        torch.testing.assert_close(
            a.to(b.dtype), b, rtol=1e-3, atol=1e-4 * float(b.double().nan_to_num(0, 0, 0).abs().max()), equal_nan=True
        )
        if n >= len(single) - gradients:
            assert (b != b.float()).any()  # digits that float32 has not
