"""Deviation from a shared mean: closed form, gradients, kernels against the float64 reference."""

import pytest
import torch
from torch import Tensor

from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.deviation import deviation


def test_gradcheck_and_a_known_value():
    values = torch.tensor([[[1.0, 2, 3], [0, 0, 0]], [[0, 0, 0], [0, 0, 3]]], dtype=torch.float64)
    mean = torch.tensor([[0.0, 0, 1], [0, 0, 0]], dtype=torch.float64)
    assert deviation(values, mean).tolist() == pytest.approx([9 / 6, 10 / 6])
    assert torch.autograd.gradcheck(deviation, (values.requires_grad_(), mean.requires_grad_()))


@pytest.mark.parametrize(("subjects", "vertices"), [(1, 1), (3, 63), (2, 500), (1, 1025)])
@pytest.mark.parametrize("split", [False, True])
def test_kernels_match_the_reference(
    subjects: int, vertices: int, split: bool, device: str, request: pytest.FixtureRequest
):
    if split:
        request.getfixturevalue("small_programs")
    g = torch.Generator().manual_seed(vertices)
    values = torch.rand(subjects, vertices, 3, generator=g).to(device)
    mean = torch.rand(vertices, 3, generator=g).to(device)
    upstream = torch.randn(subjects, generator=g).to(device)

    def run(backend: Backend, dtype: torch.dtype) -> list[Tensor]:
        v, m = values.to(dtype).requires_grad_(), mean.to(dtype).requires_grad_()
        out = deviation(v, m, backend)
        return [out.detach(), *torch.autograd.grad((out * upstream.to(dtype)).sum(), (v, m))]

    found = run("triton", torch.float32)
    for a, b, c in zip(found, run("torch", torch.float64), run("triton", torch.float32), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-6 / vertices)
        assert torch.equal(a, c)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_empty_batch(backend: Backend):
    mean = torch.zeros(4, 3, requires_grad=True)
    out = deviation(torch.zeros(0, 4, 3), mean, backend)
    assert out.shape == (0,)
    assert torch.equal(torch.autograd.grad(out.sum(), mean)[0], torch.zeros(4, 3))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("values", {"values": torch.zeros(4, 3)}),
        ("values", {"values": torch.zeros(2, 0, 3)}),
        ("values", {"values": torch.zeros(4, 2, 3).transpose(0, 1)}),
        ("mean", {"mean": torch.zeros(5, 3)}),
        ("mean", {"mean": torch.zeros(4, 3).double()}),
        ("mean", {"mean": torch.zeros(4, 3, device="meta")}),
        ("backend", {"backend": "numpy"}),
    ],
)
def test_bad_input_names_the_argument(name: str, change: dict):
    good: dict = {"values": torch.zeros(2, 4, 3), "mean": torch.zeros(4, 3)}
    deviation(**good)
    with pytest.raises(ValueError, match=f"^{name} "):
        deviation(**(good | change))
