"""Rasterising and interpolating by nvdiffrast's calls, as its documentation says."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fmlfast.nvdiffrast as dr
from tests.helpers.soups import SQUARE, look, soup, square

CONTEXT = dr.RasterizeCudaContext()


def test_arguments_have_the_documented_names_order_and_defaults():
    documented = {
        dr.RasterizeCudaContext: "device=None",
        dr.RasterizeGLContext: "output_db=True, mode='automatic', device=None",
        dr.rasterize: "glctx, pos, tri, resolution, ranges=None, grad_db=True",
        dr.DepthPeeler: "glctx, pos, tri, resolution, ranges=None, grad_db=True",
        dr.DepthPeeler.rasterize_next_layer: "self",
        dr.interpolate: "attr, rast, tri, rast_db=None, diff_attrs=None",
        dr.texture: "tex, uv, uv_da=None, mip_level_bias=None, mip=None, filter_mode='auto', boundary_mode='wrap', "
        "max_mip_level=None",
        dr.texture_construct_mip: "tex, max_mip_level=None, cube_mode=False",
        dr.antialias: "color, rast, pos, tri, topology_hash=None, pos_gradient_boost=1.0",
        dr.antialias_construct_topology_hash: "tri",
        dr.get_log_level: "",
        dr.set_log_level: "level",
    }
    for call, arguments in documented.items():
        parameters = [p.replace(annotation=p.empty) for p in inspect.signature(call).parameters.values()]
        assert ", ".join(map(str, parameters)) == arguments, call
    assert {call.__name__ for call in documented} - {"rasterize_next_layer"} == set(dr.__all__)


def test_contexts_of_any_device_are_settings_only():
    assert dr.RasterizeCudaContext("cuda:1").device == "cuda:1"
    context = dr.RasterizeGLContext(False, "manual", 3)
    context.set_context()
    context.release_context()
    assert (context.output_db, context.mode, context.device) == (False, "manual", 3)
    with pytest.raises(ValueError, match="mode must be 'automatic' or 'manual', not 'auto'"):
        dr.RasterizeGLContext(mode="auto")  # type: ignore[arg-type]


def test_log_level_is_kept():
    assert dr.get_log_level() == 1
    dr.set_log_level(3)
    assert dr.get_log_level() == 3
    dr.set_log_level(1)
    with pytest.raises(ValueError, match="level must be 0, 1, 2 or 3, not 4"):
        dr.set_log_level(4)


@pytest.mark.parametrize("size", [(1, 1), (7, 12), (63, 5)])
def test_a_picture_is_what_each_pixel_centre_sees(size: tuple[int, int], poisoned_memory: None):
    height, width = size
    pos, tri = soup(3, 2, 5)
    rast, rast_db = dr.rasterize(CONTEXT, pos, tri, list(size))
    assert rast.shape == rast_db.shape == (2, height, width, 4)
    assert rast.dtype == rast_db.dtype == torch.float32 and rast.is_contiguous() and rast_db.is_contiguous()
    expected = np.array(
        [[[look(p, tri, i + 0.5, j + 0.5, height, width) for j in range(width)] for i in range(height)] for p in pos]
    )
    assert (expected[..., 3] == rast[..., 3].numpy()).all()
    assert np.abs(expected - rast.numpy()).max() < 1e-4
    assert (rast_db[rast[..., 3] == 0] == 0).all()


def test_the_first_row_is_at_the_bottom_and_the_first_corner_has_u():
    pos = torch.tensor([[[-1.0, -1, 0, 1], [1, -1, 0.5, 1], [-1, 1, 0, 1]]])
    rast, rast_db = dr.rasterize(CONTEXT, pos, torch.tensor([[0, 1, 2]], dtype=torch.int32), (4, 4))
    assert torch.allclose(rast[0, 0, 0], torch.tensor([0.75, 0.125, 0.0625, 1]))
    assert torch.allclose(rast[0, 0, 2], torch.tensor([0.25, 0.625, 0.3125, 1]))
    assert torch.equal(rast[0, 3, 3], torch.zeros(4))
    assert torch.allclose(rast_db[0, 0, 0], torch.tensor([-0.25, -0.25, 0.25, 0]))


def test_derivatives_are_those_of_u_and_v_from_pixel_to_pixel():
    pos, tri = soup(5, 1, 1, torch.float64)
    rast, rast_db = dr.rasterize(CONTEXT, pos, tri, (9, 13))
    step, seen = 1e-4, 0
    for i, j in rast[0, ..., 3].nonzero().tolist():
        across = [look(pos[0], tri, i + 0.5, j + 0.5 + s, 9, 13)[:2] for s in (step, -step)]
        down = [look(pos[0], tri, i + 0.5 + s, j + 0.5, 9, 13)[:2] for s in (step, -step)]
        found = np.stack([(x[0] - x[1]) / (2 * step) for x in (across, down)], 1).ravel()
        assert np.abs(found - rast_db[0, i, j].numpy()).max() < 1e-6
        seen += 1
    assert seen > 5


def test_u_and_v_have_gradients_and_depth_and_number_have_none():
    pos, tri = soup(7, 2, 3, torch.float64)
    weights = torch.rand(2, 8, 8, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pos.requires_grad_()
    rast, rast_db = dr.rasterize(CONTEXT, pos, tri, (8, 8))
    assert not torch.autograd.grad(rast[..., 2:].sum(), pos, retain_graph=True)[0].any()
    for output, channels in ((rast, 2), (rast_db, 4)):
        (gradient,) = torch.autograd.grad((output * weights)[..., :channels].sum(), pos, retain_graph=True)
        way = torch.randn(pos.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

        def moved(step: float, which: int = 0 if output is rast else 1, way: Tensor = way) -> Tensor:
            drawn = dr.rasterize(CONTEXT, pos.detach() + step * way, tri, (8, 8))[which]
            return (drawn * weights)[..., : 2 if which == 0 else 4].sum()

        expected = (moved(1e-6) - moved(-1e-6)) / 2e-6
        assert abs(float((gradient * way).sum() / expected) - 1) < 1e-5


def test_grad_db_and_output_db_switch_off_what_they_name():
    pos, tri = soup(9, 1, 2)
    pos.requires_grad_()
    rast, rast_db = dr.rasterize(CONTEXT, pos, tri, (6, 6))
    without_gradient, without = (
        dr.rasterize(CONTEXT, pos, tri, (6, 6), grad_db=False),
        dr.rasterize(dr.RasterizeGLContext(output_db=False), pos, tri, (6, 6)),
    )
    assert rast.requires_grad and rast_db.requires_grad
    assert without_gradient[0].requires_grad and not without_gradient[1].requires_grad
    assert torch.equal(without_gradient[1], rast_db)
    assert torch.equal(without[0], rast) and without[1].shape == (1, 6, 6, 0)
    with pytest.raises(ValueError, match=r"rast_db is empty: rasterize by RasterizeGLContext\(output_db=True\)"):
        dr.interpolate(pos, without[0], tri, without[1], "all")


def test_ranges_draw_what_meshes_of_their_own_do():
    (a, tri_a), (b, tri_b) = soup(11, 1, 4), soup(12, 1, 3)
    pos, tri = torch.cat([a[0], b[0]]), torch.cat([tri_a, tri_b + a.shape[1]])
    ranges = torch.tensor([[4, 3], [0, 4], [0, 7], [2, 0]], dtype=torch.int32)
    rast, rast_db = dr.rasterize(CONTEXT, pos, tri, (16, 16), ranges)
    color, slopes = dr.interpolate(pos, rast, tri, rast_db, [0, 3])
    for picture, mesh, first in ((0, (b, tri_b), 4), (1, (a, tri_a), 0), (2, (pos[None], tri), 0)):
        alone, alone_db = dr.rasterize(CONTEXT, *mesh, (16, 16))
        shifted = alone[0] + (alone[0, ..., 3:] > 0) * torch.tensor([0, 0, 0, first])
        assert alone.any() and torch.allclose(rast[picture], shifted, atol=1e-6)
        assert torch.allclose(rast_db[picture], alone_db[0], atol=1e-6)
        expected = dr.interpolate(mesh[0], alone, mesh[1], alone_db, [0, 3])
        assert torch.allclose(color[picture], expected[0][0], atol=1e-5)
        assert torch.allclose(slopes[picture], expected[1][0], atol=1e-5)
    assert not rast[3].any() and not rast_db[3].any()
    assert torch.equal(dr.rasterize(CONTEXT, a, tri_a, (8, 8), ranges)[0], dr.rasterize(CONTEXT, a, tri_a, (8, 8))[0])


def test_attributes_are_weighted_by_u_v_and_the_rest():
    pos, tri = soup(13, 2, 4)
    attr = torch.randn(2, 12, 5, generator=torch.Generator().manual_seed(2))
    rast, rast_db = dr.rasterize(CONTEXT, pos, tri, (10, 11))
    image, slopes = dr.interpolate(attr, rast, tri, rast_db, [4, 0, 2])
    assert image.shape == (2, 10, 11, 5) and slopes.shape == (2, 10, 11, 6)
    for n, i, j in rast[..., 3].nonzero().tolist():
        u, v, _, number = rast[n, i, j].double().tolist()
        a0, a1, a2 = attr[n, tri[int(number) - 1].long()].double()
        assert torch.allclose(image[n, i, j].double(), u * a0 + v * a1 + (1 - u - v) * a2, atol=1e-5)
        du_dv = rast_db[n, i, j].double().view(2, 2)
        expected = torch.stack([a0 - a2, a1 - a2], 1)[[4, 0, 2]] @ du_dv
        assert torch.allclose(slopes[n, i, j].double(), expected.flatten(), atol=1e-5)
    assert not image[rast[..., 3] == 0].any() and not slopes[rast[..., 3] == 0].any()
    every = dr.interpolate(attr, rast, tri, rast_db, "all")[1].unflatten(3, (5, 2))
    assert torch.equal(every[..., [4, 0, 2], :].flatten(3), slopes)


def test_one_set_of_attributes_serves_all_pictures_and_nothing_chosen_is_empty():
    pos, tri = soup(15, 3, 2)
    rast, rast_db = dr.rasterize(CONTEXT, pos, tri, (5, 5))
    attr = torch.randn(1, 6, 2, generator=torch.Generator().manual_seed(3))
    image, none = dr.interpolate(attr, rast, tri)
    assert torch.equal(image, dr.interpolate(attr.repeat(3, 1, 1), rast, tri)[0])
    assert torch.equal(image, dr.interpolate(attr[0], rast, tri)[0])
    assert none.shape == (3, 5, 5, 0)
    for db, chosen in ((rast_db, None), (None, "all"), (rast_db, [])):
        assert dr.interpolate(attr, rast, tri, db, chosen)[1].shape == (3, 5, 5, 0)  # type: ignore[arg-type]


def test_a_changed_picture_is_taken_as_it_is():
    pos, tri = soup(17, 2, 4)
    pos.requires_grad_()
    rast = dr.rasterize(CONTEXT, pos, tri, (12, 12))[0]
    image = dr.interpolate(pos, rast, tri)[0]
    hidden = (torch.rand(2, 12, 12, 1, generator=torch.Generator().manual_seed(4)) > 0.5).float()
    assert torch.equal(dr.interpolate(pos, rast * hidden, tri)[0], image * hidden)
    assert torch.equal(dr.interpolate(pos[1:], rast[1:], tri)[0], image[1:])
    assert torch.equal(dr.interpolate(pos, rast.detach().clone(), tri)[0], image)
    assert torch.equal(dr.interpolate(pos, rast[:, 2:9, ::2], tri)[0], image[:, 2:9, ::2])
    assert torch.equal(dr.interpolate(pos[[1, 0]], rast[[1, 0]], tri.long())[0], image[[1, 0]])
    turned = pos.detach().transpose(1, 2).contiguous().transpose(1, 2)
    assert not turned.is_contiguous()
    again, _ = dr.rasterize(CONTEXT, turned, tri.T.contiguous().T, (12, 12))
    other = dr.interpolate(turned, again.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1), tri)[0]
    assert torch.equal(other, image)


def test_layers_lie_behind_each_other():
    pos = torch.cat([square(z, size) for z, size in ((0.5, 0.9), (-0.5, 0.3), (0.0, 0.6))])[None].requires_grad_()
    tri = torch.cat([SQUARE, SQUARE + 4, SQUARE + 8])
    with dr.DepthPeeler(CONTEXT, pos, tri, (20, 20)) as peeler:
        layers = [peeler.rasterize_next_layer() for _ in range(4)]
        assert torch.equal(layers[0][0], dr.rasterize(CONTEXT, pos, tri, (20, 20))[0])
        with dr.DepthPeeler(CONTEXT, pos, tri, (20, 20)) as other:
            assert torch.equal(layers[0][1], other.rasterize_next_layer()[1])
    assert [rast[0, 10, 10, 2].item() for rast, _ in layers] == [-0.5, 0, 0.5, 0]
    assert [(rast[..., 3] > 0).sum().item() for rast, _ in layers] == [18 * 18, 12 * 12, 6 * 6, 0]
    assert all(rast.requires_grad for rast, _ in layers)
    with pytest.raises(RuntimeError, match="rasterize_next_layer works inside `with DepthPeeler"):
        peeler.rasterize_next_layer()


WRONG: Any = dr
"""The module to call with arguments of wrong types."""
POS, TRI = soup(1, 2, 2)
RAST = dr.rasterize(CONTEXT, POS, TRI, (4, 4))[0]
RANGES = torch.tensor([[0, 2]], dtype=torch.int32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: WRONG.rasterize("cuda", POS, TRI, (4, 4)), r"^glctx must be RasterizeCudaContext\(\)"),
        (lambda: dr.rasterize(CONTEXT, POS[..., :3], TRI, (4, 4)), r"^pos must be \[N, V, 4\], not \[2, 6, 3\]"),
        (lambda: dr.rasterize(CONTEXT, POS.half(), TRI, (4, 4)), "^pos must be float32 or float64, not float16"),
        (lambda: dr.rasterize(CONTEXT, POS[0], TRI, (4, 4)), r"^ranges must be given with pos \[V, 4\]"),
        (lambda: dr.rasterize(CONTEXT, POS[0], TRI, (4, 4), RANGES.long()), "^ranges must be int32, not int64"),
        (lambda: dr.rasterize(CONTEXT, POS[0], TRI, (4, 4), RANGES + 1), "^ranges must be first triangle and"),
        (lambda: dr.rasterize(CONTEXT, POS, TRI.float(), (4, 4)), "^tri must be int32 or int64, not float32"),
        (lambda: dr.rasterize(CONTEXT, POS, TRI + 1, (4, 4)), "^tri hold the index 6, but there are 6 vertices"),
        (lambda: dr.rasterize(CONTEXT, POS, TRI[:0], (4, 4)), r"^tri must hold 1 to 2\^24 triangles, .* not 0"),
        (
            lambda: dr.rasterize(CONTEXT, POS, TRI[:1].expand((1 << 24) + 1, 3), (4, 4)),
            r"^tri must hold 1 to 2\^24 triangles, as rast counts in float32, not 16777217: draw parts",
        ),
        (lambda: WRONG.rasterize(CONTEXT, POS, TRI, 4), r"^resolution must be \(height, width\), not 4"),
        (lambda: dr.rasterize(CONTEXT, POS, TRI, (4, 0)), "^width of resolution must be an int from 1 to 32768"),
        (lambda: dr.interpolate(POS[:, :, 0], RAST, TRI), r"^tri hold the index 5, but there are 2 vertices"),
        (lambda: dr.interpolate(POS.expand(2, 6, 4)[[0, 1, 0]], RAST, TRI), "^attr must be those of 2 pictures or of"),
        (lambda: dr.interpolate(POS, RAST[..., :3], TRI), r"^rast must be \[N, H, W, 4\], not \[2, 4, 4, 3\]"),
        (lambda: dr.interpolate(POS, RAST * 2, TRI), "^rast holds triangle 3, but tri only 2"),
        (lambda: dr.interpolate(POS, RAST, TRI, RAST[:1], "all"), r"^rast_db must be \[2, 4, 4, 4\], not \[1, 4"),
        (lambda: dr.interpolate(POS, RAST, TRI, RAST, [0, 4]), "^diff_attrs must be 'all' or different indices from"),
        (lambda: dr.interpolate(POS, RAST, TRI, RAST, [1, 1]), "^diff_attrs must be 'all' or different indices from"),
    ],
)
def test_wrong_arguments_are_named(call: Callable[[], object], message: str):
    with pytest.raises(ValueError, match=message):
        call()
