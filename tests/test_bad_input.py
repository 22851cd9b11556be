"""Every public operation answers bad input with one ValueError that starts with the name of an argument."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from fmlfast import camera, renderer
from fmlfast.kernels.blendshape import linear_decode, pad_columns
from fmlfast.kernels.deform import deform, skin_displacements
from fmlfast.kernels.deviation import deviation
from fmlfast.kernels.photometric import photometric, photometric_pixels, sample_bilinear
from fmlfast.kernels.sparsity import chromaticity, sparsity
from fmlfast.renderer import Fragments, rasterize

F, V, H, W = 2, 5, 6, 7
SIZE = {"height": H, "width": W}
OPTIONAL = ("background", "weights", "rotation", "translation")
ANY_STRIDES = ("Ks", "viewmats", "sh", "background", "codes", "displacements", "delta", "rotation", "translation")
Call = tuple[Callable, dict[str, Any]]


def calls() -> dict[str, Call]:
    """Each operation with good arguments."""
    g = torch.Generator().manual_seed(0)
    rand = lambda *shape: torch.rand(*shape, generator=g)  # noqa: E731
    eyes = torch.tensor([[0.0, 0, 500], [100, 50, 400]])
    viewmats = camera.look_at(eyes, torch.zeros(F, 3))
    Ks = torch.tensor([[9.0, 0, W / 2], [0, 9, H / 2], [0, 0, 1]]).repeat(F, 1, 1)
    cameras = {"viewmats": viewmats, "Ks": Ks}
    mesh = {
        "vertices": rand(F, V, 3) * 60 - torch.tensor([30.0, 30, -100]),
        "triangles": torch.tensor([[0, 1, 2], [1, 2, 3], [2, 3, 4]]),
    }
    seen = {**mesh, "Ks": Ks}
    fragments, points = rasterize(mesh["vertices"], mesh["triangles"], Ks, H, W), mesh["vertices"]
    colors, normals, sh, image = rand(F, V, 3), rand(F, V, 3), rand(F, 9, 3), rand(F, H, W, 3)
    images, weights, depth = rand(F, 3, H, W), rand(F, V), rand(F, H, W)
    skin = {"skin_indices": torch.zeros(V, 8, dtype=torch.int64), "skin_weights": rand(V, 8)}
    skin = {"displacements": rand(F, 4, 3), **skin}
    pose = {"delta": rand(F, 2, 3), "rotation": rand(F, 2, 3, 3), "translation": rand(F, 2, 3)}
    modelviews, projections = camera.to_opengl(viewmats, Ks, H, W, 1.0, 9.0)
    ndc = dict(zip(("R", "T", "focal_length", "principal_point"), camera.to_pytorch3d(viewmats, Ks, H, W), strict=True))
    planes = {"near": 1.0, "far": 9.0}
    return {
        "rasterize": (rasterize, {**seen, **SIZE, "near": 1.0}),
        "interpolate": (renderer.interpolate, {"attributes": colors, **mesh, "fragments": fragments}),
        "antialias": (renderer.antialias, {"image": image, **seen, "fragments": fragments}),
        "vertex_normals": (renderer.vertex_normals, mesh),
        "sh_basis": (renderer.sh_basis, {"normals": normals}),
        "shade_sh": (renderer.shade_sh, {"reflectance": colors, "normals": normals, "sh": sh}),
        "shade_vertices": (renderer.shade_vertices, {**mesh, "reflectance": colors, "sh": sh}),
        "vertex_visibility": (renderer.vertex_visibility, {**seen, "normals": normals, "depth": depth}),
        "render": (
            renderer.render,
            {**mesh, "colors": colors, **cameras, **SIZE, "background": rand(3), "supersample": 1, "near": 1.0},
        ),
        "photometric": (photometric, {**seen, "colors": colors, "weights": weights, "images": images}),
        "photometric_pixels": (photometric_pixels, {"rendered": image, "images": image, "weights": depth}),
        "sample_bilinear": (sample_bilinear, {"images": images, "uv": rand(F, V, 2)}),
        "linear_decode": (linear_decode, {"codes": rand(F, 2), "basis": rand(2, 16), "mean": rand(16)}),
        "pad_columns": (pad_columns, {"basis": rand(2, 16), "multiple": 16}),
        "skin_displacements": (skin_displacements, skin),
        "deform": (deform, {"mean": rand(V, 3), **skin, "expressions": rand(3, V, 3), **pose}),
        "chromaticity": (chromaticity, {"colors": rand(F, 2, V, 3), "weights": rand(F, 2, V)}),
        "deviation": (deviation, {"values": colors, "mean": rand(V, 3)}),
        "sparsity": (
            sparsity,
            {
                "reflectance": colors,
                "chroma": rand(F, V, 2),
                "known": weights > 0.5,
                "edges": torch.tensor([[0, 1], [1, 2]]),
            },
        ),
        "project": (camera.project, {"points": points, "Ks": Ks}),
        "to_camera": (camera.to_camera, {"points": points, "viewmats": viewmats}),
        "look_at": (camera.look_at, {"eyes": eyes, "targets": 0 * eyes}),
        "to_opengl": (camera.to_opengl, {**cameras, **SIZE, **planes}),
        "from_opengl": (camera.from_opengl, {"modelviews": modelviews, "projections": projections, **SIZE}),
        "to_pytorch3d": (camera.to_pytorch3d, {**cameras, **SIZE}),
        "from_pytorch3d": (camera.from_pytorch3d, {**ndc, **SIZE}),
        "to_nvdiffrast": (camera.to_nvdiffrast, {"points": points, "Ks": Ks, **SIZE, **planes}),
        "from_nvdiffrast": (camera.from_nvdiffrast, {"clip": rand(F, V, 4), "Ks": Ks, **SIZE}),
    }


CALLS = {
    name: (op, {k: v for k, v in good.items() if k in inspect.signature(op).parameters})
    for name, (op, good) in calls().items()
}


def broken_tensors(op: str, name: str, tensor: Tensor) -> Iterator[tuple[str, Any]]:
    """Wrong values of one argument, with what is wrong about them."""
    if name not in OPTIONAL:
        yield "None", None
    yield from (("list", tensor.tolist()), ("array", tensor.numpy()), ("scalar", torch.tensor(1.0)))
    yield "sparse", tensor.to_sparse()
    wrong = [torch.float16, torch.complex64] if tensor.is_floating_point() else [torch.float32]
    for dtype in [*wrong, torch.int16, torch.int64 if tensor.is_floating_point() else torch.uint8]:
        yield str(dtype), tensor.to(dtype)
    if op not in ("project", "sh_basis"):  # which take any leading axes
        yield from (("rank + 1", tensor[None].clone()), ("rank - 1", tensor[0].clone()))
    columns = tensor.transpose(-1, -2).contiguous().transpose(-1, -2) if tensor.ndim > 1 else tensor
    dense = op in renderer.__all__ or op in ("linear_decode", "deform", "sparsity", "chromaticity", "photometric")
    if not columns.is_contiguous() and dense and name not in ANY_STRIDES and op != "sh_basis":
        yield "not contiguous", columns
    if name in ("triangles", "skin_indices", "edges"):
        yield from ((f"index {i}", change(tensor, i)) for i in (-1, 99))
        if name != "skin_indices":
            yield "none of them", tensor[:0]
    if name in ("viewmats", "Ks") and op not in ("project", "to_camera"):
        yield from ((f"first number {i}", change(tensor, i)) for i in (float("nan"), float("inf"), -9.0))
        yield "last row", tensor.roll(1, -1)


def broken_numbers(name: str) -> Iterator[Any]:
    yield from (0, -1, None, "5")
    yield from [float("nan"), float("inf")] if name in ("near", "far") else [2.0, True, False]


def change(tensor: Tensor, value: float) -> Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[0] = value
    return tensor


def refuses(op: Callable, arguments: dict[str, Any], *names: str) -> str | None:
    """What is wrong with how the operation refuses these arguments."""
    try:
        op(**arguments)
    except ValueError as e:
        return None if str(e).startswith(names) else f"says {e}"
    except Exception as e:
        return f"raises {type(e).__name__} {e}"
    return "accepts it"


def backends(op: Callable) -> list[dict[str, str]]:
    has = "backend" in inspect.signature(op).parameters
    return [{"backend": "torch"}, {"backend": "triton"}] if has else [{}]


@pytest.mark.parametrize("name", CALLS)
def test_bad_tensors_and_numbers_are_named(name: str):
    op, good = CALLS[name]
    wrong = []
    for backend in backends(op):
        op(**good, **backend)
        for argument, value in good.items():
            if isinstance(value, Tensor):
                for label, broken in broken_tensors(name, argument, value):
                    wrong.append((argument, label, refuses(op, {**good, **backend, argument: broken}, argument)))
            elif not isinstance(value, Fragments):
                for broken in broken_numbers(argument):
                    accepted = "near and far" if argument == "far" else argument
                    wrong.append((argument, broken, refuses(op, {**good, **backend, argument: broken}, accepted)))
    assert not [w for w in wrong if w[2] is not None]


@pytest.mark.parametrize("name", [name for name, (_, good) in CALLS.items() if len(good) > 1 and name != "pad_columns"])
def test_tensors_that_do_not_go_together_are_named(name: str):
    """Another device, more of them, or another precision: any of the arguments may be the wrong one."""
    op, good = CALLS[name]
    names = tuple(good)
    wrong = []
    for backend in backends(op):
        for argument, value in good.items():
            if not isinstance(value, Tensor):
                continue
            changed = {"device": value.to("meta")}
            if argument not in ("triangles", "edges"):
                changed["count"] = torch.cat([value, value, value[:1]])
            if value.is_floating_point() and backend == {"backend": "triton"}:
                changed["dtype"] = value.double()
            for label, broken in changed.items():
                if name == "linear_decode" and label == "count" and argument == "codes":
                    continue
                if (
                    name in ("vertex_normals", "skin_displacements", "deviation")
                    and label == "count"
                    and argument in names[:1]
                ):
                    continue
                wrong.append((argument, label, refuses(op, {**good, **backend, argument: broken}, *names, "backend")))
    assert not [w for w in wrong if w[2] is not None]


@pytest.mark.parametrize(
    "name", [name for name, (op, _) in CALLS.items() if "backend" in inspect.signature(op).parameters]
)
def test_backends_are_named(name: str):
    op, good = CALLS[name]
    for backend in ("cuda", 3):
        assert refuses(op, {**good, "backend": backend}, "backend must be") is None
    double = {k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in good.items()}
    assert refuses(op, {**double, "backend": "triton"}, "backend 'triton' computes in float32", *good) is None


@pytest.mark.parametrize("name", ["interpolate", "antialias"])
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_bad_fragments_are_named(name: str, backend: str):
    op, good = CALLS[name]
    fragments: Fragments = good["fragments"]
    used = "barycentrics" if name == "interpolate" else "depth"
    ids, values = fragments.triangle_id, getattr(fragments, used)
    for broken in (None, (ids, values), {"triangle_id": change(ids, 99)}, {used: None}, {"triangle_id": ids.long()},
                   {used: values[:1]}, {"triangle_id": ids.to("meta")}, {used: values.half()}):  # fmt: skip
        if isinstance(broken, dict):
            broken = Fragments(**{**vars(fragments), **broken})
        assert refuses(op, {**good, "fragments": broken, "backend": backend}, "fragments", "attributes") is None


def test_converters_name_what_makes_no_camera():
    op, good = CALLS["from_opengl"]
    assert refuses(op, {**good, "modelviews": 2 * good["modelviews"]}, "modelviews and projections make no") is None
    assert refuses(op, {**good, "projections": -good["projections"]}, "projections must be perspective") is None
    op, good = CALLS["from_pytorch3d"]
    assert (
        refuses(op, {**good, "focal_length": -good["focal_length"]}, "R, T, focal_length and principal_point") is None
    )
    op, good = CALLS["look_at"]
    for up in ((0.0, 0.0, 0.0), (0.0, float("nan"), 0.0), (0.0, 1.0)):
        assert refuses(op, {**good, "up": up}, "up") is None
    assert refuses(op, {**good, "eyes": good["eyes"] * float("nan")}, "eyes") is None
    op, good = CALLS["project"]
    assert refuses(op, {"points": torch.ones(3, V, 3), "Ks": good["Ks"]}, "Ks must go with") is None


@pytest.mark.parametrize(
    "name", [name for name, (op, _) in CALLS.items() if "backend" in inspect.signature(op).parameters]
)
def test_no_frames_give_empty_results_that_can_be_differentiated(name: str):
    op, good = CALLS[name]
    shared = ("basis", "mean", "triangles", "edges")
    for backend in backends(op):
        none: dict[str, Any] = dict(good)
        for argument, value in good.items():
            if isinstance(value, Fragments):
                none[argument] = Fragments(*(a[:0] for a in vars(value).values()))
            elif isinstance(value, Tensor) and len(value) == F and argument not in shared:
                none[argument] = value[:0]
            if isinstance(none[argument], Tensor) and none[argument].is_floating_point():
                none[argument] = none[argument].clone().requires_grad_()
        out, full = op(**none, **backend), op(**good, **backend)
        outs, fulls = (
            list(vars(o).values()) if hasattr(o, "__dict__") and not isinstance(o, Tensor) else o for o in (out, full)
        )
        outs, fulls = ([o] if isinstance(o, Tensor) else o for o in (outs, fulls))
        assert [a.shape for a in outs] == [(0, *a.shape[1:]) for a in fulls]
        for a in outs:
            if a.requires_grad:
                a.sum().backward(retain_graph=True)
        assert not any(a.grad.any() for a in none.values() if isinstance(a, Tensor) and a.grad is not None)
