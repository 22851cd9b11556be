"""The graph cut at the codes gives what the whole graph gives."""

import pytest
import torch
from torch import Tensor, nn

from fmlfast.optim import LowRankAdam

N, K, D = 5, 4, 30


class Toy(nn.Module):
    """An encoder of codes and of a scale, and a decoder of the codes."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator))

        self.weights, self.scales = parameter(6, K), parameter(6, 1)
        self.basis, self.mean = parameter(K, D), parameter(D)
        self.decoder = LowRankAdam(self.basis, lr=1e-2)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x @ self.weights, x @ self.scales

    def loss(self, codes: Tensor, scale: Tensor, target: Tensor) -> Tensor:
        return (self.decoder.decode(codes, self.mean) * scale - target).square().mean()


def data(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(N, 6, generator=generator), torch.randn(N, D, generator=generator)


def assert_alike(cut: Toy, whole: Toy) -> None:
    for (name, a), b in zip(cut.named_parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
        if a.grad is not None or name != "basis":
            torch.testing.assert_close(a.grad, b.grad, msg=name)


@pytest.mark.parametrize("calls", [1, 2])
def test_a_cut_graph_gives_what_the_whole_graph_gives(calls: int) -> None:
    cut, whole = Toy(), Toy()
    start = whole.basis.detach().clone()
    for seed in range(3):  # gradients add up, factors do not
        x, target = data(seed)
        codes, scale = cut.encode(x)
        with cut.decoder.cut(codes, scale) as (leaf, other):
            assert not leaf.requires_grad and other.requires_grad
            sum(cut.loss(leaf, other, target + call) for call in range(calls)).backward()  # type: ignore[union-attr]
            cut.decoder.clip_grad_norm_(0.5)
        whole.decoder.zero_grad()
        codes, scale = whole.encode(x)
        sum(whole.loss(codes, scale, target + call) for call in range(calls)).backward()  # type: ignore[union-attr]
        whole.decoder.clip_grad_norm_(0.5)
        whole.decoder.step()
        assert_alike(cut, whole)
    assert (whole.basis - start).abs().min() > 0


def test_a_loss_without_the_basis_leaves_it_alone() -> None:
    toy, (x, target) = Toy(), data(0)
    before = toy.basis.detach().clone()
    toy.loss(*toy.encode(x), target).backward()  # of an earlier pass
    toy.zero_grad()
    codes, scale = toy.encode(x)
    with toy.decoder.cut(codes, scale) as (_, other):
        other.sum().backward()
    assert torch.equal(toy.basis, before) and toy.weights.grad is None
    torch.testing.assert_close(toy.scales.grad, x.sum(0)[:, None])


def test_an_error_within_changes_nothing_and_is_forgotten() -> None:
    toy, fresh, (x, target) = Toy(), Toy(), data(0)
    before = toy.basis.detach().clone()
    with pytest.raises(RuntimeError, match="out of luck"), toy.decoder.cut(*toy.encode(x)) as (leaf, other):
        toy.loss(leaf, other, target).backward()
        raise RuntimeError("out of luck")
    assert torch.equal(toy.basis, before)
    toy.zero_grad()
    for some in (toy, fresh):
        with some.decoder.cut(*some.encode(x)) as (leaf, other):
            some.loss(leaf, other, target).backward()
    assert_alike(toy, fresh)


def test_what_is_no_leaf_of_the_codes_is_refused_before_the_step() -> None:
    toy, (x, target) = Toy(), data(0)
    before = toy.basis.detach().clone()
    with pytest.raises(ValueError, match="^factors are not of the 5 codes"):
        with toy.decoder.cut(*toy.encode(x)) as (leaf, other):
            toy.loss(leaf[:3], other[:3], target[:3]).backward()
    assert torch.equal(toy.basis, before)


def test_constants_among_the_others_get_no_gradient() -> None:
    toy, (x, target) = Toy(), data(0)
    codes, scale = toy.encode(x)
    with toy.decoder.cut(codes, scale.detach()) as (leaf, other):
        toy.loss(leaf, other, target).backward()
    assert toy.weights.grad is not None and toy.scales.grad is None


def test_the_codes_of_one_process_get_their_own_rows() -> None:
    cut, whole, (x, target), (more, others) = Toy(), Toy(), data(0), data(1)
    with torch.no_grad():
        far, far_scale = cut.encode(more)
        upstream = 2 * (far @ cut.basis + cut.mean - others / far_scale) * far_scale.square() / (N * D)
    codes, scale = cut.encode(x)
    with cut.decoder.cut(codes, scale) as (leaf, other):
        cut.loss(leaf, other, target).backward()
        near, near_upstream = cut.decoder.factors()
        cut.decoder.set_factors(torch.cat([far, near]) / 2, torch.cat([upstream, near_upstream]), slice(N, 2 * N))
    codes, scale = whole.encode(x)
    whole.loss(codes, scale, target).backward()  # codes of a process get the gradient of its own loss
    torch.testing.assert_close(cut.weights.grad, whole.weights.grad)
    whole.decoder.set_factors(torch.cat([far, near]) / 2, torch.cat([upstream, near_upstream]))
    whole.decoder.step()
    torch.testing.assert_close(cut.basis, whole.basis)
