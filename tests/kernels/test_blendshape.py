"""Linear decoders: reference against the formula, kernels against the reference in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fmlfast.kernels.blendshape import linear_decode, pad_columns
from fmlfast.kernels.common.backend import Backend

SIZES = [(1, 1, 1), (3, 5, 63), (8, 50, 500), (33, 13, 501)]  # N, K, D: blocks that are full and that are not
EPSILON = 2.0**-24


def inputs(n: int, k: int, d: int, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codes, padded basis, mean and an upstream gradient in float64, all representable in bfloat16."""
    g = torch.Generator().manual_seed(1000 * n + d)
    made = [torch.randn(*s, generator=g).bfloat16().double() for s in ((n, k), (k, d), (d,), (n, d))]
    codes, basis, mean, upstream = (t.to(device) for t in made)
    return codes, pad_columns(basis), mean, upstream


def decode(args: tuple[Tensor, ...], dtype: torch.dtype, basis_dtype: torch.dtype, backend: Backend) -> list[Tensor]:
    """Value and gradients."""
    codes, basis, mean, upstream = args
    leaves = (codes.to(dtype), basis.to(basis_dtype), mean.to(dtype))
    codes, basis, mean = [leaf.detach().requires_grad_() for leaf in leaves]
    out = linear_decode(codes, basis, mean, backend)
    return [out.detach(), *torch.autograd.grad(out, (codes, basis, mean), upstream.to(dtype))]


def test_reference_gradients() -> None:
    codes, basis, mean, _ = inputs(3, 4, 6)
    torch.testing.assert_close(linear_decode(codes, basis, mean), mean + codes @ basis[:, :6])
    leaves = [t.requires_grad_() for t in (codes, basis, mean)]
    assert torch.autograd.gradcheck(lambda *args: linear_decode(*args), leaves)


@pytest.mark.parametrize("basis_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", SIZES)
def test_kernels_agree_with_the_reference(
    size: tuple[int, int, int], basis_dtype: torch.dtype, device: str, poisoned_memory: None
) -> None:
    args = inputs(*size, device)
    n, k, d = size
    expected = decode(args, torch.float64, torch.float64, "torch")
    found = decode(args, torch.float32, basis_dtype, "triton")
    # The error of a sum of products is at most terms * epsilon * the sum of their magnitudes.
    codes, basis, mean, upstream = (t.abs() for t in args)
    bound = decode((codes, basis, mean, upstream), torch.float64, torch.float64, "torch")
    for name, a, b, limit, terms in zip(
        ("out", "codes", "basis", "mean"), found, expected, bound, (k + 1, d, n, n), strict=True
    ):
        stored = 2.0**-7 if name == "basis" and basis_dtype == torch.bfloat16 else 0  # the interpreter cuts off
        error = (a.double() - b).abs()
        assert (error <= (2 * terms * EPSILON + stored) * limit + 1e-30).all(), name
    assert found[2].dtype == basis_dtype
    assert (found[2][:, d:] == 0).all()
    again = decode(args, torch.float32, basis_dtype, "triton")
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


def test_many_programs_and_rows_one_by_one(
    small_programs: None, device: str, poisoned_memory: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fmlfast.kernels.blendshape_triton.SPLIT", 128)
    args = inputs(18, 18, 300, device)  # blocks: 2 of codes, 2 of their columns forward; 2, 2 and 3 backward
    expected = decode(args, torch.float64, torch.float64, "torch")
    found = decode(args, torch.float32, torch.float32, "triton")
    for a, b in zip(found, expected, strict=True):
        assert (a.double() - b).norm() <= 1e-6 * b.norm()
    codes, basis, mean = (t.float() for t in args[:3])
    one = linear_decode(codes[17:], basis, mean, backend="triton")
    assert torch.equal(one[0], found[0][17])


def test_padding_is_ignored(device: str) -> None:
    codes, basis, mean, upstream = inputs(2, 3, 21, device)
    clean = decode((codes, basis, mean, upstream), torch.float32, torch.float32, "triton")
    basis[:, 21:] = torch.nan
    dirty = decode((codes, basis, mean, upstream), torch.float32, torch.float32, "triton")
    assert all(torch.equal(a, b) for a, b in zip(clean, dirty, strict=True))
    basis[:, 21:] = 5.0
    out = decode((codes, basis, mean, upstream), torch.float64, torch.float64, "torch")
    assert all(torch.allclose(a.double(), b, atol=1e-5) for a, b in zip(clean, out, strict=True))


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_only_what_is_asked_for_and_any_strides(backend: Backend, device: str) -> None:
    codes, basis, mean, _ = (t.float() for t in inputs(4, 5, 21, device))
    strided = codes.T.contiguous().T.requires_grad_()
    out = linear_decode(strided, basis, mean, backend=backend)
    out.sum().backward()  # an expanded gradient
    torch.testing.assert_close(strided.grad, basis[:, :21].sum(1).expand(4, -1))
    assert basis.grad is None and mean.grad is None
    basis.requires_grad_()
    with_basis = linear_decode(codes, basis, mean, backend=backend)
    with_basis.T.contiguous().square().sum().backward()
    assert basis.grad is not None
    torch.testing.assert_close(basis.grad[:, :21], 2 * codes.T @ with_basis.detach())


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_empty_inputs(backend: Backend, device: str) -> None:
    for n, k, d in ((0, 3, 4), (2, 0, 4), (2, 3, 0)):
        leaves = [t.float().requires_grad_() for t in inputs(n, k, d, device)[:3]]
        out = linear_decode(*leaves, backend=backend)
        assert out.shape == (n, d) and (k or torch.equal(out, leaves[2].expand(n, d)))
        grads = torch.autograd.grad(out, leaves, torch.ones_like(out))
        assert [g.shape for g in grads] == [leaf.shape for leaf in leaves]
        assert (grads[0] == 0).all() and (n or (grads[1] == 0).all())


def test_padding_keeps_values_and_rounds_up() -> None:
    basis = torch.arange(6.0).view(2, 3)
    padded = pad_columns(basis)
    assert padded.shape == (2, 16) and torch.equal(padded[:, :3], basis) and (padded[:, 3:] == 0).all()
    assert pad_columns(padded).shape == (2, 16) and pad_columns(basis, 2).shape == (2, 4)
    with pytest.raises(ValueError, match="^multiple "):
        pad_columns(basis, 0)
    with pytest.raises(ValueError, match="^basis "):
        pad_columns(torch.zeros(3))


BAD = {
    "codes": [torch.zeros(3), torch.zeros(2, 3, dtype=torch.int32)],
    "basis": [torch.zeros(4, 5), torch.zeros(3, 4), torch.zeros(3, 5).double(), torch.zeros(5, 3).T, None],
    "mean": [torch.zeros(5, 1), torch.zeros(5).half(), torch.zeros(10)[::2], torch.zeros(5, device="meta")],
}


@pytest.mark.parametrize(("name", "index"), [(n, i) for n, bad in BAD.items() for i in range(len(bad))])
def test_bad_input_is_named(name: str, index: int) -> None:
    made: dict[str, Any] = {"codes": torch.zeros(2, 3), "basis": torch.zeros(3, 5), "mean": torch.zeros(5)}
    made[name] = BAD[name][index]
    with pytest.raises(ValueError, match=f"^{name} "):
        linear_decode(**made)
