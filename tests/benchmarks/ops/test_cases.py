"""The benchmark suite's cases: right results from what they measure, and costs that fit what they move."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks.harness.case import Bench, Inputs, Outputs, largest_error
from benchmarks.harness.scenes import Random, Scene, face, soup, sphere_image, sphere_of
from benchmarks.harness.sizes import error_of_most
from benchmarks.ops import all_cases, rasterize, sparsity
from benchmarks.peers import torch_adam, torch_adam_fused
from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.common.topology import unique_edges

OPS = {
    "antialias",
    "chromaticity",
    "deform",
    "deviation",
    "interpolate",
    "linear_decode",
    "low_rank_adam",
    "photometric",
    "photometric_pixels",
    "rasterize",
    "rasterize_clip",
    "render",
    "shade_sh",
    "shade_vertices",
    "skin_displacements",
    "sparsity",
    "texture",
    "texture_mips",
    "vertex_normals",
    "vertex_visibility",
}
CASES = all_cases()
SMALL = [case for case in CASES if "test" in case.suites]
FRAGMENTS = {"triangle_id", "barycentrics", "depth"}
SILHOUETTES = {"vertices", "triangles", "Ks", "barycentrics", "depth"}
UNREAD = {"interpolate": {"depth"}, "antialias": SILHOUETTES}
"""Inputs that need not be read, or hardly anywhere."""
UNREAD_BACKWARD = {
    "interpolate": {"depth"},
    "antialias": {*SILHOUETTES, "triangle_id", "image"},
    "skin_displacements": {"displacements"},
    "texture_mips": {"texels"},
}
each = pytest.mark.parametrize("case", SMALL, ids=lambda case: f"{case.op}-{case.shape}")


def doubled(inputs: Inputs) -> Inputs:
    return {k: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for k, x in inputs.items()}


def run(
    case: Bench, function: Callable[[Inputs], Outputs], inputs: Inputs
) -> tuple[Outputs, list[Tensor], list[Tensor]]:
    """Results, upstream gradients of those that take one, and gradients of the inputs."""
    inputs = inputs | {name: inputs[name].detach().clone().requires_grad_() for name in case.differentiable}
    outs = function(inputs)
    with_gradient = [out for out in outs if out.requires_grad]
    generator = torch.Generator().manual_seed(1)
    upstream = [torch.randn(out.shape, generator=generator).to(out) for out in with_gradient]
    grads: list[Tensor] = []
    if case.differentiable:
        grads = list(torch.autograd.grad(with_gradient, [inputs[name] for name in case.differentiable], upstream))
    return tuple(out.detach() for out in outs), upstream, grads


def expected(case: Bench, device: str) -> tuple[Outputs, list[Tensor]]:
    reference = case.reference or (lambda inputs: case.run(inputs, "torch"))
    values, _, grads = run(case, reference, doubled(case.make(device, 3)))
    return values, grads


@each
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_results_and_gradients_are_those_of_float64(case: Bench, backend: Backend, device: str):
    values, grads = expected(case, device)
    found, _, found_grads = run(case, lambda inputs: case.run(inputs, backend), case.make(device, 3))
    assert case.error(found, values) <= case.tolerance["forward"]
    assert not grads or case.error(tuple(found_grads), tuple(grads)) <= case.tolerance["backward"]
    assert all(bool((grad != 0).any()) for grad in grads)


@pytest.mark.parametrize("peer", [torch_adam, torch_adam_fused], ids=lambda peer: peer.NAME)
def test_adam_with_its_gradient_written_out_does_the_same(peer, device: str):
    for case in SMALL:
        if case.op in peer.RUNS:
            assert case.error(peer.RUNS[case.op](case.make(device, 3)), expected(case, device)[0]) <= 2**-7
            assert case.dtype != "float32" or case.tolerance["forward"] < 1e-3


def test_every_operation_is_in_every_suite():
    for suite in ("test", "cpu", "gpu"):
        assert {case.op for case in CASES if suite in case.suites} == OPS
    assert len({(case.op, case.shape, case.sweep, *sorted(case.suites)) for case in CASES}) == len(CASES)


def test_sweeps_have_points_and_elements():
    for case in CASES:
        assert (case.sweep == "") == (case.x == 0)
        assert case.elements > 0 and case.element
    for suite in ("cpu", "gpu"):
        curves: dict[tuple[str, str], list[float]] = {}
        for case in CASES:
            if suite in case.suites and case.sweep:
                curves.setdefault((case.op, case.sweep), []).append(case.x)
        assert all(len(xs) >= 3 and xs == sorted(set(xs)) for xs in curves.values())
        assert {name for _, name in curves} == {"subjects", "image", "area", "vertices", "dimensions"}


def nbytes(tensors: list[Tensor]) -> int:
    return sum(x.nbytes for x in tensors)


def read(case: Bench, inputs: Inputs, unread: set[str]) -> int:
    return nbytes([x for name, x in inputs.items() if isinstance(x, Tensor) and name not in unread])


@each
def test_costs_are_the_sizes_of_what_goes_in_and_out(case: Bench):
    inputs = case.make("cpu", 3)
    forward = read(case, inputs, UNREAD.get(case.op, set()))
    values, upstream, grads = run(case, lambda inputs: case.run(inputs, "torch"), inputs)
    assert case.forward.bytes == pytest.approx(forward + nbytes(list(values)), rel=0.01)
    assert case.forward.flops > 0
    assert (case.backward is not None) == bool(case.differentiable)
    if case.backward is not None:
        unread = UNREAD_BACKWARD.get(case.op, set())
        if case.op == "linear_decode":  # linear in its codes, so that only the basis' gradient needs them
            unread = {"mean"} if "basis" in case.differentiable else {"mean", "codes"}
        backward = read(case, inputs, unread) + nbytes(upstream) + nbytes(grads)
        backward += values[-1].nbytes if case.op.startswith("rasterize") else 0  # what each pixel sees
        assert case.backward.bytes == pytest.approx(backward, rel=0.01)
        assert case.backward.flops > 0


@each
def test_inputs_go_with_the_seed(case: Bench):
    first, again, other = (case.make("cpu", seed) for seed in (3, 3, 4))
    tensors = {name for name, value in first.items() if isinstance(value, Tensor)}
    assert all(torch.equal(first[name], again[name]) for name in tensors)
    assert any(not torch.equal(first[name], other[name]) for name in tensors)
    assert all(first[name].is_contiguous() for name in tensors)


@pytest.mark.parametrize("mesh", [face(0), face(1), face(2), sphere_of(3_000)], ids=str)
def test_meshes_have_the_sizes_they_say(mesh):
    vertices, triangles = mesh.on("cpu")
    assert (len(vertices), len(triangles)) == (mesh.vertices, mesh.triangles)
    assert len(unique_edges(triangles)) == sparsity.edge_count(mesh)
    assert int(triangles.max()) + 1 == mesh.vertices


@pytest.mark.parametrize("mesh", [face(2), sphere_of(30_000)], ids=str)
def test_scenes_fill_the_picture_and_see_outsides(mesh):
    size = 240 if mesh.kind == "face" else sphere_image(mesh)
    views = Scene(2, 2, mesh, size).views(Random("cpu", 3))
    _, _, ids = rasterize.run(views, "torch")
    share = (ids >= 0).float().mean((1, 2))
    assert bool(((share > 0.3) & (share < 0.55)).all())
    _, _, outside = rasterize.run(views | {"cull_backfaces": True}, "torch")
    assert float((ids == outside).float().mean()) > (0.97 if mesh.kind == "face" else 0.999)  # the mouth is open
    if mesh.kind == "sphere":  # half of the triangles are in front
        assert float((ids >= 0).sum((1, 2)).float().mean()) == pytest.approx(0.5 * mesh.triangles / 2, rel=0.1)


@pytest.mark.parametrize("area", [0.2, 10.0, 400.0])
def test_triangles_of_a_soup_are_as_large_as_they_should(area: float):
    views = soup(Random("cpu", 3), 2, 300, area, 256)
    xy = views["vertices"][..., :2] / views["vertices"][..., 2:] * views["Ks"][0, 0, 0]
    a, b, c = xy.unflatten(1, (300, 3)).unbind(2)
    signed = ((b - a)[..., 0] * (c - a)[..., 1] - (b - a)[..., 1] * (c - a)[..., 0]) / 2
    torch.testing.assert_close(-signed, torch.full_like(signed, area), rtol=1e-2, atol=0)  # y points down


def test_errors_are_found():
    exact = torch.linspace(-2, 1, 20_000, dtype=torch.float64)
    for place in (0, 10_000):
        wrong = exact.float()
        wrong[place] += 0.5
        assert largest_error((wrong,), (exact,)) == pytest.approx(0.25, rel=1e-3)
        assert error_of_most((wrong,), (exact,)) < 1e-6
        wrong[:5] += 0.5
        assert error_of_most((wrong,), (exact,)) == pytest.approx(0.25, rel=1e-3)
        assert error_of_most((wrong[:100],), (exact[:100],)) >= 0.25 * (1 - 1e-3)
    empty = torch.tensor([1.0, torch.inf])
    assert largest_error((empty,), (empty.double(),)) == 0
    assert largest_error((torch.zeros(2),), (empty.double(),)) == torch.inf
    assert largest_error((torch.tensor([torch.nan, torch.inf]),), (empty.double(),)) == torch.inf
    assert largest_error((torch.tensor([True, False]),), (torch.tensor([True, True]),)) == 0.5


def test_pictures_are_compared_where_both_see_one_triangle():
    ids = torch.tensor([[[0, 1, 2, 2]]], dtype=torch.int32)
    other = torch.tensor([[[0, 1, 2, 1]]], dtype=torch.int32)
    barycentrics, depth = torch.rand(1, 1, 4, 3), torch.rand(1, 1, 4)
    moved = depth.clone()
    moved[..., 3] += 1
    exact = barycentrics.double(), depth.double(), ids
    assert rasterize.error((barycentrics, moved, other), exact) == 0.25
    assert rasterize.error((barycentrics, moved, ids), exact) > 0.5
