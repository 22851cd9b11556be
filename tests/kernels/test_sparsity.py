"""Reflectance sparsity: definition, gradients, kernels against the float64 reference."""

import math

import pytest
import torch
from torch import Tensor

from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.sparsity import chromaticity, sparsity


def scene(seed: int, subjects: int, vertices: int, frames: int = 3, count: int | None = None) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "colors": torch.rand(subjects, frames, vertices, 3, generator=g),
        "weights": (torch.rand(subjects, frames, vertices, generator=g) - 0.6).clamp(min=0),
        "reflectance": torch.rand(subjects, vertices, 3, generator=g) * 0.2,
        "edges": torch.randint(0, vertices, (count or 4 * vertices, 2), generator=g),
    }


def test_matches_a_naive_loop():
    s = {k: v.double() if v.is_floating_point() else v for k, v in scene(0, 2, 7).items()}
    chroma, known = chromaticity(s["colors"], s["weights"])
    value = sparsity(s["reflectance"], chroma, known, s["edges"], 5.0, 0.9)
    for b in range(2):
        h: list[list[float] | None] = []
        for v in range(7):
            seen = [c for c, w in zip(s["colors"][b, :, v].tolist(), s["weights"][b, :, v].tolist(), strict=True) if w]
            total = [sum(c[k] for c in seen) for k in range(3)]
            h.append([total[0] / sum(total), total[1] / sum(total)] if seen else None)
        assert [x is not None for x in h] == known[b].tolist()
        expected = 0.0
        for i, j in s["edges"].tolist():
            hi, hj = h[i], h[j]
            weight = math.exp(-5 * math.dist(hi, hj)) if hi is not None and hj is not None else 1.0
            expected += weight * (math.dist(s["reflectance"][b, i], s["reflectance"][b, j]) ** 2 + 1e-6) ** 0.45
        assert float(value[b]) == pytest.approx(expected / len(s["edges"]), rel=1e-9)


def test_gradcheck():
    s = scene(1, 2, 6)
    chroma, known = (a.double() if a.is_floating_point() else a for a in chromaticity(s["colors"], s["weights"]))
    r = (s["reflectance"].double() * 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: sparsity(x, chroma, known, s["edges"], 3.0), r)


@pytest.mark.parametrize(("subjects", "vertices"), [(1, 1), (3, 63), (2, 500), (1, 1025)])
@pytest.mark.parametrize("split", [False, True])
def test_kernels_match_the_reference(
    subjects: int, vertices: int, split: bool, device: str, request: pytest.FixtureRequest
):
    if split:
        request.getfixturevalue("small_programs")
    s = {k: v.to(device) for k, v in scene(vertices, subjects, vertices).items()}
    s["colors"][s["weights"] == 0] = torch.nan  # what is not seen does not count
    chroma, known = chromaticity(s["colors"], s["weights"], backend="triton")
    exact, exact_known = chromaticity(s["colors"].double(), s["weights"].double(), backend="torch")
    assert torch.equal(known, exact_known)
    torch.testing.assert_close(chroma[known].double(), exact[known], rtol=1e-5, atol=1e-6)
    assert chroma.isfinite().all()

    def run(backend: Backend, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        r = s["reflectance"].to(dtype).requires_grad_()
        value = sparsity(r, chroma.to(dtype), known, s["edges"], 20.0, 0.8, backend=backend)
        weights = torch.arange(1, subjects + 1, dtype=dtype, device=device)
        return value.detach(), torch.autograd.grad((value * weights).sum(), r)[0]

    value, gradient = run("triton", torch.float32)
    expected, expected_gradient = run("torch", torch.float64)
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)
    error = (gradient - expected_gradient).norm() / expected_gradient.norm().clamp(min=1e-12)
    assert float(error) < 1e-5
    again = run("triton", torch.float32)
    assert torch.equal(value, again[0]) and torch.equal(gradient, again[1])


def test_batch_equals_one_by_one(device: str):
    s = {k: v.to(device) for k, v in scene(3, 3, 41).items()}
    chroma, known = chromaticity(s["colors"], s["weights"], backend="triton")
    whole = sparsity(s["reflectance"], chroma, known, s["edges"], backend="triton")
    for b in range(3):
        part = slice(b, b + 1)
        one_chroma, one_known = chromaticity(s["colors"][part], s["weights"][part], backend="triton")
        assert torch.equal(one_chroma, chroma[part]) and torch.equal(one_known, known[part])
        one = sparsity(s["reflectance"][part], one_chroma, one_known, s["edges"], backend="triton")
        assert torch.equal(one, whole[part])


def test_a_vertex_with_many_edges_and_one_with_none(device: str):
    g = torch.Generator().manual_seed(4)
    edges = torch.stack([torch.zeros(300, dtype=torch.int64), torch.arange(1, 301)], 1).to(device)
    reflectance = torch.rand(1, 302, 3, generator=g).to(device)
    chroma, known = torch.zeros(1, 302, 2, device=device), torch.ones(1, 302, dtype=torch.bool, device=device)
    gradients = []
    backends: tuple[tuple[Backend, torch.dtype], ...] = (("triton", torch.float32), ("torch", torch.float64))
    for backend, dtype in backends:
        r = reflectance.to(dtype).requires_grad_()
        value = sparsity(r, chroma.to(dtype), known, edges, backend=backend)
        gradients.append(torch.autograd.grad(value.sum(), r)[0].double())
    assert (gradients[0][0, 301] == 0).all()
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_empty_batch(backend: Backend):
    s = scene(5, 0, 9, count=5)
    s["edges"] = torch.tensor([[0, 1]])
    chroma, known = chromaticity(s["colors"], s["weights"], backend)
    assert chroma.shape == (0, 9, 2) and known.shape == (0, 9)
    assert sparsity(s["reflectance"], chroma, known, s["edges"], backend=backend).shape == (0,)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("reflectance", {"reflectance": torch.zeros(9, 3)}),
        ("reflectance", {"reflectance": torch.zeros(2, 9, 3, dtype=torch.int32)}),
        ("reflectance", {"reflectance": torch.zeros(9, 2, 3).transpose(0, 1)}),
        ("chroma", {"chroma": torch.zeros(2, 9, 3)}),
        ("chroma", {"chroma": torch.zeros(2, 9, 2).double()}),
        ("known", {"known": torch.zeros(2, 9)}),
        ("edges", {"edges": torch.zeros(0, 2, dtype=torch.int64)}),
        ("edges", {"edges": torch.tensor([[0, 9]])}),
        ("edges", {"edges": torch.tensor([[0, -1]])}),
        ("edges", {"edges": torch.tensor([[0, 1]], device="meta")}),
        ("backend", {"backend": "cuda"}),
    ],
)
def test_bad_input_names_the_argument(name: str, change: dict):
    good: dict = {
        "reflectance": torch.zeros(2, 9, 3),
        "chroma": torch.zeros(2, 9, 2),
        "known": torch.ones(2, 9, dtype=torch.bool),
        "edges": torch.tensor([[0, 1]]),
    }
    sparsity(**good)
    with pytest.raises(ValueError, match=f"^{name}"):
        sparsity(**(good | change))
    with pytest.raises(ValueError, match="^weights"):
        chromaticity(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 4))


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_a_color_that_is_not_a_number_leaves_no_chromaticity(backend: Backend, device: str):
    colors = torch.full((1, 1, 2, 3), 0.25, device=device)
    colors[0, 0, 0, 2] = torch.nan
    chroma, _ = chromaticity(colors, torch.ones(1, 1, 2, device=device), backend)
    assert chroma[0].isnan().tolist() == [[True, True], [False, False]]
