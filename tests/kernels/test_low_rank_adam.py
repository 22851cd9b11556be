"""One step of Adam from factors: against the formula in float64, bit for bit repeatable, rounding without bias."""

import pytest
import torch
from torch import Tensor

from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.low_rank_adam import low_rank_adam_

SIZES = [  # N, K, D, S
    (1, 1, 1, 1),
    (2, 1, 300, 304),
    (5, 2, 63, 64),
    (3, 5, 63, 64),
    (8, 18, 500, 512),
    (17, 3, 501, 501),
    (40, 3, 130, 144),
]
BETAS = (0.8, 0.95)
EPS = 1e-3  # so that elements with hardly a gradient do not amplify its rounding
EPSILON = 2.0**-24


def inputs(size: tuple[int, int, int, int], device: str = "cpu") -> list[Tensor]:
    """basis, exp_avg, exp_avg_sq, codes, upstream in float32; moments are representable in bfloat16, 0 in padding."""
    n, k, d, s = size
    g = torch.Generator().manual_seed(1000 * n + d)
    basis, mean, square = (torch.randn(k, s, generator=g) for _ in range(3))
    mean[:, d:], square[:, d:] = 0, 0
    codes, upstream = torch.randn(n, k, generator=g), torch.randn(n, d, generator=g)
    return [t.to(device) for t in (basis, mean.bfloat16().float(), square.square().bfloat16().float(), codes, upstream)]


def step(args: list[Tensor], dtype: torch.dtype, backend: Backend, codes_gradient: bool, count: int = 3, **more):
    """basis, moments and codes' gradient after a step; `args` stay as they are. `moments`: their type."""
    moments = more.pop("moments", dtype)
    basis, mean, square, codes, upstream = (t.to(dtype, copy=True) for t in args)
    mean, square = mean.to(moments), square.to(moments)
    done = torch.tensor(float(count), device=basis.device)
    options: dict = {"lr": 0.1, "betas": BETAS, "eps": EPS, "codes_gradient": codes_gradient, "backend": backend} | more
    gradient = low_rank_adam_(basis, mean, square, codes, upstream, done, **options)
    assert (gradient is not None) == codes_gradient
    return [basis, mean, square] + ([] if gradient is None else [gradient])


def formula(args: list[Tensor], lr: float, count: int) -> list[Tensor]:
    """Algorithm 1 of arXiv 1412.6980 on the materialised gradient, in float64."""
    basis, mean, square, codes, upstream = (t.double() for t in args)
    gradient = torch.zeros_like(basis)
    gradient[:, : upstream.shape[1]] = codes.T @ upstream
    mean = BETAS[0] * mean + (1 - BETAS[0]) * gradient
    square = BETAS[1] * square + (1 - BETAS[1]) * gradient**2
    unbiased, unbiased_sq = mean / (1 - BETAS[0] ** count), square / (1 - BETAS[1] ** count)
    moved = basis - lr * unbiased / (unbiased_sq.sqrt() + EPS)
    return [moved, mean, square, upstream @ basis[:, : upstream.shape[1]].T]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs no larger than the cases, as the interpreter computes idle lanes too."""
    monkeypatch.setattr("fmlfast.kernels.common.backend.INTERPRETER_LANES", 1024)


@pytest.mark.parametrize("codes_gradient", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_both_backends_follow_the_formula(size: tuple, codes_gradient: bool, device: str, poisoned_memory: None):
    args = inputs(size, device)
    n, _, d, _ = size
    expected = formula(args, 0.1, 3)
    for found, exact in zip(step(args, torch.float64, "torch", codes_gradient), expected, strict=False):
        torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-12)
    for backend in ("torch", "triton"):
        found = step(args, torch.float32, backend, codes_gradient)
        codes, upstream = args[3].abs().double(), args[4].abs().double()
        limit = torch.nn.functional.pad(codes.T @ upstream, (0, size[3] - d))  # of the gradient's sum of products
        error = 2 * (n + 4) * EPSILON * limit
        assert ((found[1] - expected[1]).abs() <= error + 4 * EPSILON * expected[1].abs()).all()
        assert ((found[2] - expected[2]).abs() <= 2 * error * limit + 8 * EPSILON * expected[2]).all()
        # From these moments the step takes eight roundings at most, and one where it is added.
        unbiased, unbiased_sq = (m.double() / (1 - beta**3) for m, beta in zip(found[1:3], BETAS, strict=True))
        move = 0.1 * unbiased / (unbiased_sq.sqrt() + EPS)
        moved = args[0].double() - move
        assert ((found[0] - moved).abs() <= 2 * EPSILON * (moved.abs() + 8 * move.abs())).all()
        if codes_gradient:
            torch.testing.assert_close(found[3].double(), expected[3], rtol=1e-5, atol=1e-6 * d)
        assert torch.equal(found[0][:, d:], args[0][:, d:])
        again = step(args, torch.float32, backend, codes_gradient)
        assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


@pytest.mark.parametrize("moments", [torch.float32, torch.bfloat16])
def test_many_programs(small_programs: None, moments: torch.dtype, device: str, poisoned_memory: None, monkeypatch):
    monkeypatch.setattr("fmlfast.kernels.low_rank_adam_triton.SPLIT", 64)
    args = inputs((5, 18, 150, 160), device)
    args[0][:, 150:] = torch.nan  # padding has no effect and comes back as it was
    expected = step(args, torch.float32, "torch", True, moments=moments)
    found = step(args, torch.float32, "triton", True, moments=moments)
    assert found[0][:, 150:].isnan().all()
    for a, b in zip(found, expected, strict=True):
        inner = slice(0, 150)
        if a.dtype == torch.bfloat16:  # the same noise, but sums may differ in the last bit
            assert ((a != b).float().mean() < 1e-3) and torch.allclose(a.float(), b.float(), rtol=2**-7)
        else:
            torch.testing.assert_close(a[:, inner], b[:, inner], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_rounding_is_random_without_bias_and_repeats(backend: Backend, device: str):
    args = inputs((4, 60, 1000, 1000), device)
    exact = step(args, torch.float32, "torch", False)
    found = step(args, torch.float32, backend, False, moments=torch.bfloat16)
    again = step(args, torch.float32, backend, False, moments=torch.bfloat16)
    other = step(args, torch.float32, backend, False, count=4, moments=torch.bfloat16)
    torch.testing.assert_close(found[0], exact[0], rtol=1e-5, atol=1e-5)  # the step itself is made before rounding
    errors = []
    for i in (1, 2):
        assert found[i].dtype == torch.bfloat16
        assert torch.equal(found[i], again[i]) and not torch.equal(found[i], other[i])
        spacing = torch.exp2(exact[i].abs().log2().floor() - 7)
        errors.append(((found[i].float().abs() - exact[i].abs()) / spacing).flatten())
        assert (errors[-1].abs() <= 1.001).all()
        # A value at fraction p of the spacing has an error of variance p (1 - p): 1/6 in the mean, 0.41 its root.
        assert errors[-1].mean().abs() < 4 * 0.41 / 60_000**0.5
        assert errors[-1].var().item() == pytest.approx(1 / 6, rel=0.03)
    assert torch.corrcoef(torch.stack(errors))[0, 1].abs() < 0.02  # the two moments' noise
    field = errors[0].view(60, 1000)
    assert (field[1:] * field[:-1]).mean().abs() < 0.004 and (field[:, 1:] * field[:, :-1]).mean().abs() < 0.004


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_infinities_and_nans_stay_what_they_are(backend: Backend, device: str):
    args = inputs((1, 1, 4, 4), device)
    args[3][:] = 1
    args[4][:] = torch.tensor([[torch.nan, torch.inf, -torch.inf, 1.0]], device=device)
    args[4].view(torch.int32)[0, 0] = 0x7FFFFFFF  # the NaN of NVIDIA's GPUs, from which noise carries into the sign
    _, mean, square = step(args, torch.float32, backend, False, moments=torch.bfloat16)
    assert mean[0, 0].isnan() and mean[0, 1] == torch.inf and mean[0, 2] == -torch.inf and mean[0, 3].isfinite()
    assert square[0, 0].isnan() and square[0, 1] == torch.inf


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_a_rate_on_the_device_and_strided_codes(backend: Backend, device: str):
    args = inputs((8, 20, 100, 112), device)
    expected = step(args, torch.float32, backend, True)
    rate = torch.tensor(0.1, device=device)
    args[3] = args[3].T.contiguous().T
    for found, exact in zip(step(args, torch.float32, backend, True, lr=rate), expected, strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_empty_inputs(backend: Backend, device: str):
    for size in ((0, 3, 4, 16), (2, 0, 4, 16), (2, 3, 0, 16)):
        args = inputs(size, device)
        basis, mean, square, gradient = step(args, torch.float32, backend, True)
        n, k, d, s = size
        assert basis.shape == mean.shape == square.shape == (k, s)
        assert torch.equal(gradient, torch.zeros(n, k, device=device))
        torch.testing.assert_close(mean, args[1] * BETAS[0])  # without rows the gradient is zero, and moments decay


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("basis", {"basis": torch.zeros(4)}),
        ("basis", {"basis": torch.zeros(6, 4).T}),
        ("basis", {"basis": torch.zeros(4, 6).bfloat16()}),
        ("exp_avg", {"exp_avg": torch.zeros(4, 5)}),
        ("exp_avg", {"exp_avg": torch.zeros(4, 6).half()}),
        ("exp_avg_sq", {"exp_avg_sq": torch.zeros(4, 6).bfloat16()}),
        ("exp_avg_sq", {"exp_avg_sq": torch.zeros(6, 4).T}),
        ("codes", {"codes": torch.zeros(2, 5)}),
        ("codes", {"codes": torch.zeros(2, 4).double()}),
        ("upstream", {"upstream": torch.zeros(3, 6)}),
        ("upstream", {"upstream": torch.zeros(2, 7)}),
        ("upstream", {"upstream": torch.zeros(2, 6, device="meta")}),
        ("step", {"step": torch.ones(1)}),
        ("step", {"step": 1}),
        ("eps", {"eps": 0.0}),
        ("backend", {"backend": "numpy"}),
    ],
)
def test_bad_input_names_the_argument(name: str, change: dict):
    good: dict = {n: torch.zeros(4, 6) for n in ("basis", "exp_avg", "exp_avg_sq")}
    good |= {"codes": torch.zeros(2, 4), "upstream": torch.zeros(2, 6), "step": torch.ones(()), "lr": 0.1}
    low_rank_adam_(**good)
    with pytest.raises(ValueError, match=f"^{name} "):
        low_rank_adam_(**(good | change))
