"""Provides Adam for the basis of a linear decoder, from low-rank factors of its gradient."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function

from fmlfast.kernels.blendshape import linear_decode
from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.common.checks import check_tensor
from fmlfast.kernels.low_rank_adam import low_rank_adam_


class LowRankAdam(torch.optim.Optimizer):
    """Optimises the large basis [K, S] of a linear decoder, out = mean + codes @ basis, by Adam.

    With few codes [N, K] the gradient of the basis, codes^T times the gradient of the output, has rank N at most.
    `decode` keeps these two factors in `backward`, and `step` updates basis and moments from them in one pass: 24 bytes
    per number of the basis instead of 44 for writing a gradient, clipping it and reading it again, and no memory for
    it. Up to rounding, the result is that of torch.optim.Adam. Any model with such a decoder can use it, be it of
    shapes, textures or spectra:

        basis = torch.nn.Parameter(pad_columns(initial))          # fmlfast.kernels.blendshape; padding is optional
        decoder = LowRankAdam(basis, lr=1e-3)
        others = torch.optim.Adam([mean, *encoder.parameters()])  # all but the basis
        for x, target in batches:
            others.zero_grad()
            decoder.zero_grad()
            loss(decoder.decode(encoder(x), mean), target).backward()
            decoder.clip_grad_norm_(1.0, [mean])                  # optional
            others.step()
            decoder.step()

    Factors of several backward passes add up until `zero_grad`, as gradients do. The basis is to be used through
    `decode` only; a gradient of its own is refused.

    The gradient of the codes takes another pass over the basis during `backward`. To compute it in the pass of `step`,
    cut the graph at the codes:

        codes = encoder(x)
        with decoder.cut(codes) as (leaf,):
            loss(decoder.decode(leaf, mean), target).backward()

    Data-parallel processes exchange factors, N (K + D) numbers each, instead of the K D of a gradient. Then every
    process makes the same step, bit for bit:

        codes, upstream = decoder.factors()
        own = slice(rank * len(codes), (rank + 1) * len(codes))
        decoder.set_factors(all_gather(codes) / processes, all_gather(upstream), own)  # before clip_grad_norm_ and step

    Learning rate schedulers and `state_dict` work as with torch.optim.Adam, whose state of the basis can be loaded;
    states hold tensors only. Nothing synchronises with the GPU.

    Args:
        basis: [K, S] contiguous float32 parameter, with backend "torch" also float64. Columns beyond the length of the
            decoder's mean are padding and never change.
        lr: learning rate; a scalar tensor on the device of `basis` is read again when a CUDA graph is replayed.
        betas: as in torch.optim.Adam.
        eps: as in torch.optim.Adam, above 0.
        moments: torch.bfloat16 stores both moments in half the memory, with unbiased stochastic rounding; equal runs
            give equal bits. None: the type of `basis`.
        backend: "torch" or "triton"; by default the one for the device.

    Raises:
        ValueError: naming an argument of a wrong shape, type, layout or value.
    """

    def __init__(
        self,
        basis: torch.nn.Parameter,  # [K, S]
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        moments: torch.dtype | None = None,
        backend: Backend | None = None,
    ) -> None:
        check_tensor("basis", basis, ("K", "S"))
        if not isinstance(lr, Tensor) and not lr >= 0:
            raise ValueError(f"lr must be at least 0, not {lr}")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be from 0 to below 1, not {betas}")
        if not eps > 0:
            raise ValueError(f"eps must be above 0, not {eps}")
        if moments not in (None, basis.dtype, torch.bfloat16):
            raise ValueError(f"moments must be {basis.dtype} or torch.bfloat16, not {moments}")
        super().__init__([basis], {"lr": lr, "betas": betas, "eps": eps})
        self.basis = basis
        self.moments = moments or basis.dtype
        self.backend: Backend | None = backend
        self._factors: list[tuple[Tensor, Tensor]] = []
        self._own = slice(None)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds the basis; raises ValueError for a second parameter, as every decoder has its own optimiser."""
        if self.param_groups or len(param_group["params"]) != 1:
            raise ValueError("params must be one basis: give each decoder a LowRankAdam and the rest another optimiser")
        super().add_param_group(param_group)

    def decode(
        self,
        codes: Tensor,  # [N, K]
        mean: Tensor,  # [D]
    ) -> Tensor:  # [N, D]
        """Decodes codes, mean + codes @ basis[:, :D], and keeps the factors of the basis' gradient in `backward`.

        Forward pass of `linear_decode`, differentiable in codes and mean. D is the same in all calls. Without
        gradients, or while the basis does not require one, nothing is kept.

        Raises:
            ValueError: naming the argument of a wrong shape, type, device or layout.
        """
        shape = ("N", len(self.basis))
        check_tensor("codes", codes, shape, (self.basis.dtype,), ("basis", self.basis), contiguous=False)
        out = linear_decode(codes, self.basis.detach(), mean, self.backend)
        if torch.is_grad_enabled() and self.basis.requires_grad:
            kept = codes.detach()
            if not out.requires_grad:
                out.requires_grad_()  # so that `backward` calls the hook
            out.register_hook(lambda upstream: self._factors.append((kept, upstream.detach().contiguous())))
        return out

    @contextmanager
    def cut(
        self,
        codes: Tensor,  # [N, K]
        *others: Tensor,
    ) -> Iterator[tuple[Tensor, ...]]:
        """Cuts the graph at `codes` and `others`, so that `step` computes the codes' gradient in its one pass.

        Yields leaves in place of them, the one of `codes` for `decode`, which may be called several times. Within,
        compute the loss of the leaves and run `backward`; then exchange and clip factors, if at all. At the end `step`
        updates the basis, and the gradients of codes and others are propagated to their inputs. Earlier factors are
        forgotten. A loss without the basis, or an exception within, does not change it.

        Raises ValueError, before the step, where something else than the leaf of `codes` was decoded.
        """
        self.zero_grad()
        leaves = codes.detach(), *(other.detach().requires_grad_() for other in others)
        yield leaves
        gradients = [leaf.grad for leaf in leaves]
        if self._factors:
            with record_function("fmlfast::optimiser"):
                if len(self.factors()[0][self._own]) % len(codes):
                    raise ValueError(
                        f"factors are not of the {len(codes)} codes: decode the leaf of codes, nothing else"
                    )
                gradient = self.step(codes_gradient=True)
                assert gradient is not None
                gradients[0] = gradient[self._own].unflatten(0, (-1, len(codes))).sum(0)  # over calls of decode
        with record_function("fmlfast::gradients"):
            ends = [
                (end, gradient)
                for end, gradient in zip((codes, *others), gradients, strict=True)
                if gradient is not None and end.requires_grad
            ]
            torch.autograd.backward([end for end, _ in ends], [gradient for _, gradient in ends])

    def factors(self) -> tuple[Tensor, Tensor]:  # [R, K], [R, D]
        """Returns codes and gradients of their outputs since `zero_grad`; the basis' gradient is codes^T upstream.

        Raises ValueError where there are none yet.
        """
        if not self._factors:
            raise ValueError("factors come with backward through the result of decode, of which there was none")
        if len(self._factors) > 1:
            codes, upstream = zip(*self._factors, strict=True)
            self._factors = [(torch.cat(codes), torch.cat(upstream))]
        return self._factors[0]

    def set_factors(
        self,
        codes: Tensor,  # [R, K]
        upstream: Tensor,  # [R, D], D <= S
        own: slice = slice(None),
    ) -> None:
        """Replaces the factors, as by those of all processes; rows `own` are this process's, R is any number.

        Raises ValueError naming the argument of a wrong shape, type or device.
        """
        like = ("basis", self.basis)
        check_tensor("codes", codes, ("R", len(self.basis)), (self.basis.dtype,), like, contiguous=False)
        check_tensor("upstream", upstream, (len(codes), "D"), (self.basis.dtype,), like, contiguous=False)
        self._factors, self._own = [(codes.detach(), upstream.detach().contiguous())], own

    def squared_norm(self) -> Tensor:  # []
        """Computes the squared norm of the basis' gradient from its factors.

        It is sum((codes codes^T) * (upstream upstream^T)).
        """
        codes, upstream = (factor.double() for factor in self.factors())  # as rows may nearly cancel
        return ((codes @ codes.T) * (upstream @ upstream.T)).sum().clamp_min(0)

    @torch.no_grad()
    def clip_grad_norm_(self, max_norm: float, others: Iterable[Tensor] = ()) -> Tensor:  # []
        """Clips the joint gradient norm of the basis and `others`, as torch.nn.utils.clip_grad_norm_ does.

        Args:
            max_norm: above 0.
            others: parameters; those without a gradient do not count.

        Returns:
            The norm of all gradients together before clipping, of the basis' type.
        """
        if not max_norm > 0:
            raise ValueError(f"max_norm must be above 0, not {max_norm}")
        gradients = [other.grad for other in others if other.grad is not None]
        squares = [gradient.double().square().sum() for gradient in gradients]
        if self._factors:
            squares.append(self.squared_norm())
        norm = torch.stack(squares).sum().sqrt() if squares else self.basis.new_zeros(()).double()
        factor = (max_norm / (norm + 1e-6)).clamp_max(1.0).to(self.basis.dtype)
        for gradient in gradients:
            gradient.mul_(factor)
        if self._factors:
            codes, upstream = self.factors()
            self._factors = [(codes * factor, upstream)]  # codes are the smaller of the two
        return norm.to(self.basis.dtype)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Discards the factors."""
        super().zero_grad(set_to_none)
        self._factors, self._own = [], slice(None)

    @torch.no_grad()
    def step(self, codes_gradient: bool = False) -> Tensor | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Applies a step of Adam; without factors does nothing, as torch.optim.Adam without a gradient.

        Args:
            codes_gradient: whether to return the gradient of the codes as well: upstream @ basis^T [R, K] for
                `factors`, with the basis before the step and before any clipping. In the pass itself for 16 rows or
                fewer.

        Raises:
            ValueError: the basis has a gradient of its own, or codes_gradient is asked for without factors.
        """
        if self.basis.grad is not None:
            raise ValueError("basis has a gradient of its own, which would be lost: use it through decode only")
        if not self._factors and not codes_gradient:
            return None
        codes, upstream = self.factors()
        state, group = self.state[self.basis], self.param_groups[0]
        if not state:
            state["step"] = torch.zeros((), device=self.basis.device)
            state["exp_avg"] = torch.zeros_like(self.basis, dtype=self.moments)
            state["exp_avg_sq"] = torch.zeros_like(self.basis, dtype=self.moments)
        state["step"] += 1
        return low_rank_adam_(
            self.basis.detach(),
            state["exp_avg"],
            state["exp_avg_sq"],
            codes,
            upstream,
            state["step"],
            group["lr"],
            group["betas"],
            group["eps"],
            codes_gradient,
            self.backend,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state, with moments in their own type and the step count on the basis' device.

        Raises ValueError where the state is that of another basis.
        """
        super().load_state_dict(state_dict)
        state = self.state[self.basis]
        for name in ("exp_avg", "exp_avg_sq"):
            if name in state:
                check_tensor(name, state[name], tuple(self.basis.shape), contiguous=False)
                state[name] = state[name].to(self.moments).contiguous()
        if "step" in state:
            state["step"] = torch.as_tensor(state["step"], dtype=torch.float32, device=self.basis.device)
