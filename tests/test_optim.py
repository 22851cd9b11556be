"""LowRankAdam: equal to torch.optim.Adam on the materialised gradient, accumulation, clipping, state, lean moments."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fmlfast.kernels.blendshape import linear_decode, pad_columns
from fmlfast.kernels.common.backend import Backend
from fmlfast.optim import LowRankAdam
from fmlfast.training.checkpoint import load_state, save_state

BETAS = (0.9, 0.99)
RATE = 0.02


def made(k: int, d: int, device: str = "cpu", seed: int = 0) -> tuple[nn.Parameter, nn.Parameter]:
    """Padded basis and mean."""
    g = torch.Generator().manual_seed(seed)
    basis, mean = pad_columns(torch.randn(k, d, generator=g)), torch.randn(d, generator=g)
    return nn.Parameter(basis.to(device)), nn.Parameter(mean.to(device))


def batch(i: int, n: int, k: int, d: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Codes that require gradients, and a target."""
    g = torch.Generator().manual_seed(100 + i)
    codes, target = torch.randn(n, k, generator=g).to(device), torch.randn(n, d, generator=g).to(device)
    return codes.requires_grad_(), target


def materialised(steps: int, size: tuple[int, int, int], clip: float, dtype: torch.dtype = torch.float32):
    """Basis, mean and the gradients of the codes after `steps` of torch.optim.Adam with a schedule and clipping."""
    n, k, d = size
    basis, mean = (nn.Parameter(p.detach().to(dtype)) for p in made(k, d))
    optimizer = torch.optim.Adam([mean, basis], RATE, BETAS)
    gradients, norms = [], []
    for i in range(steps):
        codes, target = (t.detach().to(dtype).requires_grad_() for t in batch(i, n, k, d))
        optimizer.param_groups[0]["lr"] = RATE * (1 - i / steps)
        optimizer.zero_grad()
        (linear_decode(codes, basis, mean) - target).square().mean().backward()
        norms.append(nn.utils.clip_grad_norm_([mean, basis], clip))
        optimizer.step()
        gradients.append(codes.grad)
    return basis, mean, gradients, torch.stack(norms)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs no larger than the case, as the interpreter computes idle lanes too."""
    monkeypatch.setattr("fmlfast.kernels.common.backend.INTERPRETER_LANES", 128)
    monkeypatch.setattr("fmlfast.kernels.blendshape_triton.SPLIT", 128)
    monkeypatch.setattr("fmlfast.kernels.low_rank_adam_triton.SPLIT", 128)


@pytest.mark.parametrize(
    ("backend", "size", "clip", "cut"),
    [
        ("torch", (4, 20, 203), 0.1, False),
        ("torch", (4, 20, 203), 0.1, True),
        ("torch", (1, 3, 16), 1e9, False),
        ("triton", (2, 4, 61), 0.1, True),
    ],
)
def test_a_hundred_steps_equal_adam_on_the_materialised_gradient(
    backend: Backend, size: tuple[int, int, int], clip: float, cut: bool, device: str, quick: None
):
    n, k, d = size
    expected = materialised(100, size, clip)
    basis, mean = made(k, d, device)
    padding = basis.detach()[:, d:].clone()
    optimizer = LowRankAdam(basis, RATE, BETAS, backend=backend)
    other = torch.optim.Adam([mean], RATE, BETAS)
    for i in range(100):
        codes, target = batch(i, n, k, d, device)
        for group in (*optimizer.param_groups, *other.param_groups):
            group["lr"] = RATE * (1 - i / 100)
        optimizer.zero_grad()
        other.zero_grad()
        out = optimizer.decode(codes.detach() if cut else codes, mean)
        (out - target).square().mean().backward()
        norm = optimizer.clip_grad_norm_(clip, [mean])
        other.step()
        gradient = optimizer.step(codes_gradient=cut)
        assert basis.grad is None
        torch.testing.assert_close(gradient if cut else codes.grad, expected[2][i].to(device), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(norm, expected[3][i].to(device))
    assert (basis - expected[0].to(device)).abs().max() < 1e-5
    assert (mean - expected[1].to(device)).abs().max() < 1e-5
    assert torch.equal(basis[:, d:], padding)


def test_passes_add_up_until_zero_grad_and_factors_may_be_exchanged():
    n, k, d = 3, 7, 50
    halves = [batch(i, n, k, d) for i in range(2)]
    basis, mean = made(k, d)
    together = LowRankAdam(basis)
    for codes, target in halves:
        (together.decode(codes, mean) - target).square().sum().backward()
    codes, upstream = together.factors()
    assert codes.shape == (2 * n, k) and upstream.shape == (2 * n, d)
    same, same_mean = made(k, d)
    for c, t in halves:
        (linear_decode(c, same, same_mean) - t).square().sum().backward()
    gradient = same.grad
    assert gradient is not None
    torch.testing.assert_close(codes.T @ upstream, gradient[:, :d])
    torch.testing.assert_close(together.squared_norm().float(), gradient.square().sum())

    processes = []
    for c, t in halves:  # each sees its own half of a batch, the loss is the mean over processes
        b, m = made(k, d)
        processes.append(LowRankAdam(b))
        (processes[-1].decode(c.detach(), m) - t).square().sum().mul(2).backward()
    gathered = [torch.cat(parts) for parts in zip(*(p.factors() for p in processes), strict=True)]
    for p in processes:
        p.set_factors(gathered[0] / 2, gathered[1])
        p.step()
    together.step()
    assert torch.equal(processes[0].basis, processes[1].basis)
    torch.testing.assert_close(processes[0].basis, together.basis)

    together.zero_grad()
    before = basis.detach().clone()
    assert together.step() is None and torch.equal(before, basis)
    with pytest.raises(ValueError, match="^factors "):
        together.factors()


def test_what_needs_no_gradient_leaves_no_factors():
    basis, mean = made(4, 20)
    optimizer = LowRankAdam(basis)
    codes, _ = batch(0, 2, 4, 20)
    with torch.no_grad():
        assert not optimizer.decode(codes, mean).requires_grad
    basis.requires_grad_(False)
    optimizer.decode(codes, mean).sum().backward()
    with pytest.raises(ValueError, match="^factors "):
        optimizer.factors()
    basis.requires_grad_()
    out = optimizer.decode(codes.detach(), mean.detach())  # only the basis learns
    out.sum().backward()
    assert torch.equal(optimizer.factors()[1], torch.ones(2, 20))


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_a_step_between_forward_and_backward_is_noticed(backend: Backend):
    basis, mean = made(4, 20)
    optimizer = LowRankAdam(basis, backend=backend)
    codes, _ = batch(0, 2, 4, 20)
    optimizer.decode(codes, mean).sum().backward()
    late = optimizer.decode(codes, mean).sum()
    optimizer.step()
    with pytest.raises(RuntimeError, match="inplace"):
        late.backward()


def test_schedulers_work_and_others_are_clipped_alone():
    basis, mean = made(4, 20)
    optimizer = LowRankAdam(basis, 0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    assert optimizer.clip_grad_norm_(1.0) == 0
    mean.grad = torch.full_like(mean, 2.0)
    torch.testing.assert_close(optimizer.clip_grad_norm_(1.0, [mean]), torch.tensor(80.0).sqrt())
    torch.testing.assert_close(mean.grad.norm(), torch.tensor(1.0))
    codes, _ = batch(0, 2, 4, 20)
    before = basis.detach().clone()
    optimizer.decode(codes, mean).sum().backward()
    optimizer.step()
    schedule.step()
    torch.testing.assert_close((basis - before)[:, :20].abs(), torch.full((4, 20), 0.1))  # Adam's first step
    assert optimizer.param_groups[0]["lr"] == 0.05


@pytest.mark.parametrize("moments", [torch.float32, torch.bfloat16])
def test_a_resumed_run_is_the_unbroken_one_bit_for_bit(moments: torch.dtype, tmp_path: Path):
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.basis, self.mean = made(5, 33)

    def run(model: Model, optimizer: LowRankAdam, first: int, last: int) -> None:
        for i in range(first, last):
            codes, target = batch(i, 3, 5, 33)
            optimizer.zero_grad()
            (optimizer.decode(codes, model.mean.detach()) - target).square().mean().backward()
            optimizer.step()

    unbroken = Model()
    optimizer = LowRankAdam(unbroken.basis, RATE, moments=moments)
    run(unbroken, optimizer, 0, 5)
    save_state(tmp_path / "state.safetensors", unbroken, {"decoder": optimizer}, 5)
    run(unbroken, optimizer, 5, 9)
    resumed = Model()
    optimizer = LowRankAdam(resumed.basis, RATE, moments=moments)
    assert load_state(tmp_path / "state.safetensors", resumed, {"decoder": optimizer}) == 5
    assert optimizer.state[resumed.basis]["exp_avg"].dtype == moments
    run(resumed, optimizer, 5, 9)
    assert torch.equal(unbroken.basis, resumed.basis)


@pytest.mark.parametrize("where", ["model", "optimiser"])
def test_a_state_that_is_not_finite_never_replaces_a_good_one(where: str, tmp_path: Path):
    model = nn.Linear(2, 2)
    adam = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    adam.step()
    path = tmp_path / "state.safetensors"
    save_state(path, model, {"adam": adam}, 1)
    with torch.no_grad():
        broken = model.weight if where == "model" else adam.state[model.weight]["exp_avg_sq"]
        broken[0, 0] = torch.nan if where == "model" else torch.inf
    with pytest.raises(
        FloatingPointError, match=r"weight is not finite" if where == "model" else r"adam\.0\.exp_avg_sq"
    ):
        save_state(path, model, {"adam": adam}, 2)
    assert load_state(path, model, {"adam": adam}) == 1


def test_the_state_of_adam_continues():
    basis, mean = made(5, 32)
    adam = torch.optim.Adam([basis], RATE, BETAS)
    codes, target = batch(0, 3, 5, 32)
    (linear_decode(codes, basis, mean) - target).square().mean().backward()
    adam.step()
    other = nn.Parameter(basis.detach().clone())
    optimizer = LowRankAdam(other, RATE, BETAS)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": deepcopy(adam.state_dict()["state"]), "param_groups": groups})
    (optimizer.decode(codes, mean) - target).square().mean().backward()
    optimizer.step()
    adam.zero_grad()
    (linear_decode(codes, basis, mean) - target).square().mean().backward()
    adam.step()
    torch.testing.assert_close(other, basis, rtol=0, atol=1e-6)
    wrong = LowRankAdam(made(5, 40)[0])
    with pytest.raises(ValueError, match="^exp_avg "):
        wrong.load_state_dict({"state": adam.state_dict()["state"], "param_groups": groups})


def test_lean_moments_learn_as_well():
    g = torch.Generator().manual_seed(0)
    truth = torch.randn(6, 200, generator=g)

    def learn(moments: torch.dtype, steps: int = 400) -> tuple[float, float]:
        """Error of the basis and mean second moment at the end."""
        basis = nn.Parameter(torch.zeros(6, 200))
        optimizer = LowRankAdam(basis, 0.02, moments=moments)
        for i in range(steps):
            codes = torch.randn(8, 6, generator=torch.Generator().manual_seed(i))
            optimizer.zero_grad()
            optimizer.param_groups[0]["lr"] = 0.02 * (1 - i / steps)
            (optimizer.decode(codes, torch.zeros(200)) - codes @ truth).square().mean().backward()
            optimizer.step()
        return (basis - truth).square().mean().item(), optimizer.state[basis]["exp_avg_sq"].float().mean().item()

    exact, lean = learn(torch.float32), learn(torch.bfloat16)
    assert exact[0] < 0.01 and lean[0] < 1.1 * exact[0]
    assert lean[1] == pytest.approx(exact[1], rel=0.02)  # the nearest number would never follow a decay by 0.999


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("basis", {"basis": nn.Parameter(torch.zeros(4))}),
        ("basis", {"basis": nn.Parameter(torch.zeros(4, 6).bfloat16())}),
        ("basis", {"basis": [torch.zeros(4, 6)]}),
        ("lr", {"lr": -1.0}),
        ("lr", {"lr": float("nan")}),
        ("betas", {"betas": (0.9, 1.0)}),
        ("eps", {"eps": 0.0}),
        ("moments", {"moments": torch.float16}),
    ],
)
def test_bad_input_names_the_argument(name: str, change: dict):
    good: dict = {"basis": nn.Parameter(torch.zeros(4, 6))}
    LowRankAdam(**good)
    with pytest.raises(ValueError, match=f"^{name} "):
        LowRankAdam(**(good | change))


def test_misuse_is_refused():
    basis, mean = made(4, 20)
    optimizer = LowRankAdam(basis)
    with pytest.raises(ValueError, match="^codes "):
        optimizer.decode(torch.zeros(2, 5), mean)
    with pytest.raises(ValueError, match="^upstream "):
        optimizer.set_factors(torch.zeros(2, 4), torch.zeros(3, 20))
    with pytest.raises(ValueError, match="^max_norm "):
        optimizer.clip_grad_norm_(0.0)
    with pytest.raises(ValueError, match="^factors "):
        optimizer.step(codes_gradient=True)
    with pytest.raises(ValueError, match="^params "):
        optimizer.add_param_group({"params": [mean]})
    basis.sum().backward()
    with pytest.raises(ValueError, match="^basis "):
        optimizer.step()
