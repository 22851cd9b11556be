"""Every public operation answers bad input with one ValueError that starts with the name of an argument."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from fmlfast import renderer
from fmlfast.renderer import Fragments
from tests.helpers.operations import CALLS, F, V

OPTIONAL = ("background", "weights", "rotation", "translation", "uv_da", "mip_level_bias")
ANY_STRIDES = ("Ks", "viewmats", "sh", "background", "codes", "displacements", "delta", "rotation", "translation")


def broken_tensors(op: str, name: str, tensor: Tensor) -> Iterator[tuple[str, Any]]:
    """Wrong values of one argument, with what is wrong about them."""
    if name not in OPTIONAL:
        yield "None", None
    yield from (("list", tensor.tolist()), ("array", tensor.numpy()), ("scalar", torch.tensor(1.0)))
    yield "sparse", tensor.to_sparse()
    wrong = [torch.float16, torch.complex64] if tensor.is_floating_point() else [torch.float32]
    for dtype in [*wrong, torch.int16, torch.int64 if tensor.is_floating_point() else torch.uint8]:
        yield str(dtype), tensor.to(dtype)
    if op not in ("project", "distort", "undistort", "sh_basis"):  # which take any leading axes
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
                none[argument] = Fragments(*(a[:0] for a in vars(value).values() if a is not None))
            elif isinstance(value, Tensor) and len(value) == F and argument not in shared:
                none[argument] = value[:0]
            if isinstance(none[argument], Tensor) and none[argument].is_floating_point():
                none[argument] = none[argument].clone().requires_grad_()
        out, full = op(**none, **backend), op(**good, **backend)
        outs, fulls = (
            list(vars(o).values()) if hasattr(o, "__dict__") and not isinstance(o, Tensor) else o for o in (out, full)
        )
        outs, fulls = ([o] if isinstance(o, Tensor) else [a for a in o if a is not None] for o in (outs, fulls))
        assert [a.shape for a in outs] == [(0, *a.shape[1:]) for a in fulls]
        for a in outs:
            if a.requires_grad:
                a.sum().backward(retain_graph=True)
        assert not any(a.grad.any() for a in none.values() if isinstance(a, Tensor) and a.grad is not None)
