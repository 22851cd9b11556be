import pytest
import torch

from fmlfast.kernels.blendshape import deform, linear_decode, skin_displacements


def skinning(vertices: int, nodes: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    indices = torch.stack([torch.randperm(nodes, generator=generator)[:8] for _ in range(vertices)]).int()
    weights = torch.rand(vertices, 8, generator=generator, dtype=torch.float64)
    return indices, weights / weights.sum(1, keepdim=True)


@pytest.mark.parametrize("vertices", [1, 63, 500])
def test_skinning_matches_the_dense_matrix(vertices: int) -> None:
    g = torch.Generator().manual_seed(vertices)
    indices, weights = skinning(vertices, 11, g)
    t = torch.randn(3, 11, 3, generator=g, dtype=torch.float64)
    dense = torch.zeros(vertices, 11, dtype=torch.float64).scatter_(1, indices.long(), weights)
    torch.testing.assert_close(skin_displacements(t, indices, weights), dense @ t)


def test_deform_is_the_sum_of_its_parts_and_differentiates() -> None:
    g = torch.Generator().manual_seed(1)
    indices, weights = skinning(7, 9, g)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    mean, t, expressions, delta = random(7, 3), random(2, 9, 3), random(5, 7, 3), random(2, 4, 5)
    posed = deform(mean, t, indices, weights, expressions, delta)
    expected = (mean + skin_displacements(t, indices, weights))[:, None] + torch.einsum(
        "bme,evc->bmvc", delta, expressions
    )
    torch.testing.assert_close(posed, expected)
    t.requires_grad_()
    delta.requires_grad_()
    assert torch.autograd.gradcheck(lambda t, d: deform(mean, t, indices, weights, expressions, d), (t, delta))


def test_linear_decode_gradients() -> None:
    args = [torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((3, 4), (4, 6), (6,))]
    torch.testing.assert_close(linear_decode(*args), args[2] + args[0] @ args[1])
    assert torch.autograd.gradcheck(linear_decode, args)


def test_shapes_that_disagree_are_named() -> None:
    with pytest.raises(ValueError, match="basis"):
        linear_decode(torch.zeros(2, 3), torch.zeros(4, 5), torch.zeros(5))
    with pytest.raises(ValueError, match="displacements"):
        skin_displacements(torch.zeros(4, 3), torch.zeros(2, 8, dtype=torch.int32), torch.zeros(2, 8))
    with pytest.raises(ValueError, match="delta"):
        deform(
            torch.zeros(4, 3),
            torch.zeros(1, 4, 3),
            torch.zeros(2, 8).int(),
            torch.zeros(2, 8),
            torch.zeros(5, 2, 3),
            torch.zeros(1, 1, 4),
        )
