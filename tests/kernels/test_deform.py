"""Skinning, blendshapes and pose: reference against dense algebra, kernels against the reference in float64."""

from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.deform import deform, skin_displacements

LEAVES = ("mean", "displacements", "expressions", "delta", "rotation", "translation")
SIZES = [(1, 1, 1, 1), (2, 4, 63, 5), (3, 1, 64, 4), (1, 17, 100, 3), (9, 3, 500, 6)]  # B, M, V, E


@dataclass(frozen=True)
class Inputs:
    mean: Tensor
    displacements: Tensor
    skin_indices: Tensor
    skin_weights: Tensor
    expressions: Tensor
    delta: Tensor
    rotation: Tensor | None
    translation: Tensor | None

    def cast(self, dtype: torch.dtype) -> "Inputs":
        made = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: t.to(dtype) for k, t in made.items() if t is not None and t.is_floating_point()})


def inputs(b: int, m: int, v: int, e: int, pose: bool = True, device: str = "cpu") -> Inputs:
    g = torch.Generator().manual_seed(100 * b + v)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(device)

    indices = torch.stack([torch.randperm(11, generator=g)[:8] for _ in range(v)]) if v else torch.zeros(0, 8).long()
    weights = random(v, 8).abs()
    return Inputs(
        mean=50 * random(v, 3),
        displacements=random(b, 11, 3),
        skin_indices=indices.int().to(device),
        skin_weights=weights / weights.sum(1, keepdim=True),
        expressions=random(e, v, 3).bfloat16().double(),
        delta=random(b, m, e),
        rotation=torch.linalg.qr(random(b, m, 3, 3)).Q if pose else None,
        translation=600 + random(b, m, 3) if pose else None,
    )


def gradients(args: Inputs, backend: Backend, upstream: Tensor, wanted: tuple[str, ...] = LEAVES) -> dict[str, Tensor]:
    """The value, under "out", and the gradients of what was given."""
    leaves = {n: t.detach().requires_grad_() for n in wanted if (t := getattr(args, n)) is not None}
    moved = replace(args, **leaves)
    out = deform(**{f.name: getattr(moved, f.name) for f in fields(moved)}, backend=backend)
    found = torch.autograd.grad(out, list(leaves.values()), upstream.to(out.dtype))
    return {"out": out.detach()} | dict(zip(leaves, found, strict=True))


def upstream_of(args: Inputs) -> Tensor:
    shape = (*args.delta.shape[:2], len(args.mean), 3)
    return torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(args.mean.device)


def compare(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        # Coordinates near 600 mm are rounded to 3e-5 mm, a few times; gradients are sums of up to 1500 terms.
        torch.testing.assert_close(tensor.double(), expected[name], atol=3e-4 if name == "out" else 0, rtol=torch.inf)
        assert (tensor.double() - expected[name]).norm() <= 1e-5 * expected[name].norm(), name


@pytest.mark.parametrize("vertices", [1, 63, 500])
def test_skinning_matches_the_dense_matrix(vertices: int) -> None:
    args = inputs(3, 1, vertices, 1)
    dense = torch.zeros(vertices, 11, dtype=torch.float64)
    dense.scatter_(1, args.skin_indices.long(), args.skin_weights)
    found = skin_displacements(args.displacements, args.skin_indices, args.skin_weights)
    torch.testing.assert_close(found, dense @ args.displacements)


@pytest.mark.parametrize("pose", [True, False])
def test_reference_is_the_sum_of_its_parts_and_differentiates(pose: bool) -> None:
    a = inputs(2, 3, 7, 5, pose)
    neutral = a.mean + skin_displacements(a.displacements, a.skin_indices, a.skin_weights)
    expected = neutral[:, None] + torch.einsum("bme,evc->bmvc", a.delta, a.expressions)
    leaves = [a.mean, a.displacements, a.expressions, a.delta]
    if a.rotation is not None and a.translation is not None:
        expected = torch.einsum("bmij,bmvj->bmvi", a.rotation, expected) + a.translation[:, :, None]
        leaves += [a.rotation, a.translation]
    for leaf in leaves:
        leaf.requires_grad_()

    def posed(*args: Any) -> Tensor:
        return deform(args[0], args[1], a.skin_indices, a.skin_weights, *args[2:])

    torch.testing.assert_close(posed(*leaves), expected)
    assert torch.autograd.gradcheck(posed, leaves, fast_mode=True)


@pytest.mark.parametrize("pose", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_kernels_agree_with_the_reference(
    size: tuple[int, int, int, int], pose: bool, device: str, poisoned_memory: None
) -> None:
    args = inputs(*size, pose, device)
    upstream = upstream_of(args)
    found = gradients(args.cast(torch.float32), "triton", upstream)
    compare(found, gradients(args, "torch", upstream))
    again = gradients(args.cast(torch.float32), "triton", upstream)
    assert all(torch.equal(found[n], again[n]) for n in found)


def test_expressions_in_bfloat16(device: str, poisoned_memory: None) -> None:
    args = inputs(2, 2, 63, 5, True, device)
    upstream = upstream_of(args)
    small = replace(args.cast(torch.float32), expressions=args.expressions.bfloat16())
    found, expected = gradients(small, "triton", upstream), gradients(args, "torch", upstream)
    stored, exact = found.pop("expressions"), expected.pop("expressions")
    compare(found, expected)
    assert stored.dtype == torch.bfloat16
    assert ((stored.double() - exact).abs() <= 2.0**-7 * exact.abs() + 1e-5).all()
    compare(gradients(small, "torch", upstream, ("delta",)), {n: expected[n] for n in ("out", "delta")})


def test_many_programs_and_frames_one_by_one(small_programs: None, device: str, poisoned_memory: None) -> None:
    args = inputs(9, 2, 300, 6, True, device)  # blocks: 2 of subjects, 5 of vertices; 2 of the vertices backward
    upstream = upstream_of(args)
    found = gradients(args.cast(torch.float32), "triton", upstream)
    compare(found, gradients(args, "torch", upstream))
    cut: dict[str, Any] = {name: getattr(args, name)[8:, 1:] for name in ("delta", "rotation", "translation")}
    one = replace(args, displacements=args.displacements[8:], **cut)
    alone = gradients(one.cast(torch.float32), "triton", upstream[8:, 1:])
    assert torch.equal(alone["out"][0, 0], found["out"][8, 1])
    assert torch.equal(alone["rotation"][0, 0], found["rotation"][8, 1])
    assert torch.equal(alone["translation"][0, 0], found["translation"][8, 1])


@pytest.mark.parametrize("wanted", [(name,) for name in LEAVES])
def test_each_gradient_alone(wanted: tuple[str, ...], device: str, poisoned_memory: None) -> None:
    args = inputs(2, 2, 20, 3, True, device)
    upstream = torch.ones((), dtype=torch.float64, device=device).expand(2, 2, 20, 3)  # not contiguous
    found = gradients(args.cast(torch.float32), "triton", upstream, wanted)
    compare(found, gradients(args, "torch", upstream, wanted))


def test_skinning_of_many_subjects_and_its_gradient(device: str, poisoned_memory: None) -> None:
    args = inputs(12, 1, 500, 1, False, device)  # 36 coordinates of subjects: two blocks
    upstream = upstream_of(args)[:, 0]
    results = []
    choices: list[tuple[Backend, torch.dtype]] = [("triton", torch.float32), ("torch", torch.float64)]
    for backend, dtype in choices:
        leaf = args.displacements.to(dtype).requires_grad_()
        out = skin_displacements(leaf, args.skin_indices, args.skin_weights.to(dtype), backend=backend)
        results.append((out, torch.autograd.grad(out, leaf, upstream.to(dtype))[0]))
    for a, b in zip(*results, strict=True):
        assert (a.double() - b).norm() <= 1e-6 * b.norm()


def test_a_changed_skinning_is_noticed(device: str) -> None:
    args = inputs(2, 1, 30, 2, False, device).cast(torch.float32)
    upstream = upstream_of(args)
    before = gradients(args, "triton", upstream)["displacements"]
    args.skin_indices.copy_(10 - args.skin_indices)
    torch.testing.assert_close(gradients(args, "triton", upstream)["displacements"], before.flip(1))
    args.skin_indices[0, 0] = 11
    with pytest.raises(ValueError, match="^skin_indices "):
        gradients(args, "triton", upstream)


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("pose", [True, False])
def test_empty_inputs(backend: Backend, pose: bool, device: str) -> None:
    for b, m, v, e in ((0, 2, 5, 3), (2, 0, 5, 3), (2, 3, 0, 3), (2, 3, 5, 0)):
        args = inputs(b, m, v, e, pose, device).cast(torch.float32)
        found = gradients(args, backend, torch.zeros(b, m, v, 3, device=device))
        assert found["out"].shape == (b, m, v, 3)
        for name in found.keys() - {"out"}:
            assert found[name].shape == getattr(args, name).shape and (found[name] == 0).all(), name


BAD = {
    "mean": [torch.zeros(5, 3), torch.zeros(4, 3).double()],
    "displacements": [torch.zeros(9, 3), torch.zeros(1, 9, 3).half()],
    "skin_indices": [torch.zeros(4, 8), torch.full((4, 8), 9), torch.full((4, 8), -1), torch.zeros(8, 4).int().T],
    "skin_weights": [torch.zeros(4, 7), torch.zeros(4, 8).int(), torch.zeros(4, 8, device="meta")],
    "expressions": [torch.zeros(5, 4, 2), torch.zeros(5, 3, 4).transpose(1, 2), torch.zeros(5, 4, 3).double()],
    "delta": [torch.zeros(1, 1, 4), torch.zeros(2, 1, 5), torch.zeros(1, 5)],
    "rotation": [None, torch.zeros(1, 2, 3, 3), torch.zeros(1, 1, 3)],
    "translation": [torch.zeros(1, 1, 4), torch.zeros(1, 3)],
}


@pytest.mark.parametrize(("name", "index"), [(n, i) for n, bad in BAD.items() for i in range(len(bad))])
def test_bad_input_is_named(name: str, index: int) -> None:
    good = inputs(1, 1, 4, 5).cast(torch.float32)
    good = replace(good, displacements=torch.zeros(1, 9, 3), skin_indices=torch.zeros(4, 8).int())
    made: dict[str, Any] = {f.name: getattr(good, f.name) for f in fields(good)}
    with pytest.raises(ValueError, match=f"^{name} "):
        deform(**(made | {name: BAD[name][index]}))
    if name in ("displacements", "skin_indices", "skin_weights"):
        three = {n: made[n] for n in ("displacements", "skin_indices", "skin_weights")}
        with pytest.raises(ValueError, match=f"^{name} "):
            skin_displacements(**(three | {name: BAD[name][index]}))


def test_the_skinning_of_kernels_is_float32() -> None:
    args = replace(inputs(1, 1, 4, 5).cast(torch.float32), skin_weights=torch.zeros(4, 8).double())
    with pytest.raises(ValueError, match="^skin_weights must be float32"):
        gradients(args, "triton", upstream_of(args))
