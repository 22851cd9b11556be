"""Choosing a backend, and a whole training step by either."""

import pytest
import torch
from torch import Tensor

from fmlfast.data.frames import Frames
from fmlfast.kernels.common.backend import Backend, choose_backend, lanes
from fmlfast.losses import LossWeights, objective
from fmlfast.model.fml import FML
from tests.helpers.small_model import SMALL


def step(frames: Frames, backend: Backend, device: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of a model that has left its start, so that no code is zero."""
    torch.manual_seed(0)
    model = FML(SMALL).to(device)
    model.backend = backend
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter += 0.02 * torch.randn(parameter.shape).to(device)
    codes = model.encode(frames.to(device))
    terms = objective(model, frames.to(device), codes, LossWeights())
    loss = torch.stack(list(terms.values())).sum()
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert {"face.identity_basis", "face.reflectance_basis", "face.reflectance_mean"} <= gradients.keys()
    return loss.detach(), gradients


def test_a_step_of_either_backend_is_the_same(frames: Frames, device: str):
    loss, gradients = step(frames, "torch", device)
    other_loss, other_gradients = step(frames, "triton", device)
    assert float((other_loss - loss).abs() / loss) < 1e-4
    assert gradients.keys() == other_gradients.keys()
    largest = float(torch.stack([g.norm() for g in gradients.values()]).max())
    for name, gradient in gradients.items():  # but for one that is 0: the codes are normalised over the batch
        difference = (other_gradients[name] - gradient).abs().flatten().sort().values
        sure = difference[: len(difference) - len(difference) // 1000]  # rounding may hide a vertex from one backend
        assert float(sure.norm() / gradient.norm().clamp(min=1e-4 * largest)) < 3e-4, name
    again_loss, again_gradients = step(frames, "triton", device)
    assert torch.equal(again_loss, other_loss)
    if device == "cpu":  # convolutions on a GPU may add up in any order
        assert all(torch.equal(g, again_gradients[n]) for n, g in other_gradients.items())


def test_the_default_backend_goes_with_the_device():
    assert choose_backend(None, torch.zeros(1)) == "torch"
    assert choose_backend("triton", torch.zeros(1)) == "triton"  # in the interpreter


def test_a_backend_that_cannot_run_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match="^backend must be 'torch', 'triton' or None, not 'cuda'"):
        choose_backend("cuda", torch.zeros(1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="computes in float32, not torch.float64"):
        choose_backend("triton", torch.zeros(1).double())
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="needs tensors on a GPU, these are on cpu"):
        choose_backend("triton", torch.zeros(1))
    monkeypatch.setattr("fmlfast.kernels.common.backend.HAS_TRITON", False)
    with pytest.raises(ValueError, match="needs Triton, which is not installed"):
        choose_backend("triton", torch.zeros(1))


def test_programs_are_large_in_the_interpreter_only(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert lanes(128) == 1 << 15
    monkeypatch.delenv("TRITON_INTERPRET")
    assert lanes(128) == 128
