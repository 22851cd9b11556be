"""Adam for the basis of a linear decoder, from the factors of its gradient (Adam: arXiv 1412.6980, algorithm 1)."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.adam import adam

from .common.backend import Backend, choose_backend
from .common.checks import check_tensor

BLOCK = 1 << 18
"""Elements of the basis that the reference updates together, in whole rows: their gradient stays in the cache."""
ROWS = 8
"""Rows that it updates together at least, as `upstream` is read again for each block."""
MIX = (0x7FEB352D, 0x846CA68B)
"""Factors of the 32-bit hash behind stochastic rounding (C. Wellons, hash-prospector: lowbias32)."""


def low_rank_adam_(
    basis: Tensor,  # [K, S]
    exp_avg: Tensor,  # [K, S]
    exp_avg_sq: Tensor,  # [K, S]
    codes: Tensor,  # [N, K]
    upstream: Tensor,  # [N, D], D <= S
    step: Tensor,  # []
    lr: float | Tensor,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    codes_gradient: bool = False,
    backend: Backend | None = None,
) -> Tensor | None:  # [N, K]
    """Makes a step of Adam, in place, with the gradient codes^T upstream that a decoder's basis has, never written out.

    The basis and its moments are read and written once. Columns of the basis from D on are padding, whose moments are
    zero, and stay as they are. Two runs give the same bits.

    Args:
        basis: float32, with backend "torch" also float64.
        exp_avg, exp_avg_sq: first and second moments, the type of `basis`; or both bfloat16, rounded up or down at
            random so that their mean is right, by a hash of row, column and `step`.
        codes: the decoder's input, the type of `basis`; scaled by a factor if the gradient is to be.
        upstream: gradient of the decoder's output, the type of `basis`.
        step: float32, how many steps this one makes, from 1.
        lr: learning rate; a scalar tensor on the device of `basis` is read anew when a CUDA graph is replayed.
        betas, eps: as in torch.optim.Adam, eps above 0.
        codes_gradient: whether to sum upstream @ basis^T too, in the same pass, with the basis before the step.
        backend: "torch" or "triton"; by default the one for the device.

    Returns:
        The gradient of the codes, or None where it was not asked for.

    Raises:
        ValueError: naming the argument of a wrong shape, type, device or layout.
    """
    check_tensor("basis", basis, ("K", "S"))
    like = ("basis", basis)
    check_tensor("exp_avg", exp_avg, tuple(basis.shape), (basis.dtype, torch.bfloat16), like)
    check_tensor("exp_avg_sq", exp_avg_sq, tuple(basis.shape), (exp_avg.dtype,), like)
    check_tensor("codes", codes, ("N", len(basis)), (basis.dtype,), like, contiguous=False)
    check_tensor("upstream", upstream, (len(codes), "D"), (basis.dtype,), like)
    if upstream.shape[1] > basis.shape[1]:
        raise ValueError(f"upstream has {upstream.shape[1]} columns, but basis only {basis.shape[1]}")
    check_tensor("step", step, (), (torch.float32,), like)
    if not eps > 0:
        raise ValueError(f"eps must be above 0, not {eps}")
    moments = (exp_avg, exp_avg_sq)
    for changed in (basis, *moments):  # autograd does not see kernels write
        torch.autograd.graph.increment_version(changed)
    with torch.no_grad(), torch.autocast(basis.device.type, enabled=False):
        if choose_backend(backend, basis) == "triton":
            from .low_rank_adam_triton import low_rank_adam_triton  # not before: Triton is not on every platform

            return low_rank_adam_triton(basis, moments, codes, upstream, step, lr, betas, eps, codes_gradient)
        return _low_rank_adam(basis, moments, codes, upstream, step, lr, betas, eps, codes_gradient)


def _low_rank_adam(
    basis: Tensor,  # [K, S]
    moments: tuple[Tensor, Tensor],  # [K, S] each
    codes: Tensor,  # [N, K]
    upstream: Tensor,  # [N, D]
    step: Tensor,  # []
    lr: float | Tensor,
    betas: tuple[float, float],
    eps: float,
    codes_gradient: bool,
) -> Tensor | None:  # [N, K]
    columns = upstream.shape[1]
    upstream = F.pad(upstream, (0, basis.shape[1] - columns))  # whole rows of the basis are dense, parts are not
    codes_grad = torch.zeros_like(codes) if codes_gradient else None
    block = max(ROWS, BLOCK // max(1, basis.shape[1]))
    for first in range(0, len(basis), block):
        rows = slice(first, first + block)
        if codes_grad is not None:
            codes_grad[:, rows] = upstream[:, :columns] @ basis[rows, :columns].T
        gradient = codes[:, rows].T @ upstream
        stored = [moment[rows] for moment in moments]
        exact = [moment.to(basis.dtype) for moment in stored]
        adam(
            [basis[rows]],
            [gradient],
            [exact[0]],
            [exact[1]],
            [],
            [step - 1],  # which it counts up
            fused=True,
            lr=lr,
            beta1=betas[0],
            beta2=betas[1],
            eps=eps,
            weight_decay=0.0,
            amsgrad=False,
            maximize=False,
        )
        if stored[0].dtype != basis.dtype:
            for moment, value, noise in zip(stored, exact, _noise(first, gradient.shape, step), strict=True):
                moment.copy_(_round_to_bfloat16(value.float(), noise))
    return codes_grad


def _mix(x: Tensor) -> Tensor:  # int32, of any shape
    """A hash of 32 bits in which each bit of the input flips each bit of the output half of the time."""
    x = (x ^ (x >> 16 & 0xFFFF)) * MIX[0]
    x = (x ^ (x >> 15 & 0x1FFFF)) * (MIX[1] - (1 << 32))
    return x ^ (x >> 16 & 0xFFFF)


def _noise(first: int, shape: torch.Size, step: Tensor) -> tuple[Tensor, Tensor]:
    """16 random bits for each of the two moments of the rows from `first` on, int32 of that shape."""
    row, column = (torch.arange(n, dtype=torch.int32, device=step.device) for n in shape)
    bits = _mix(_mix(row + first ^ _mix(step.to(torch.int32)))[:, None] ^ column)
    return bits & 0xFFFF, bits >> 16 & 0xFFFF


def _round_to_bfloat16(
    x: Tensor,  # float32
    noise: Tensor,  # int32, from 0 to 2^16 - 1
) -> Tensor:
    """One of the two neighbours in bfloat16, in the mean x: noise carries into the bits that stay."""
    rounded = ((x.view(torch.int32) + noise) & -0x10000).view(torch.float32)
    return torch.where(x.isfinite(), rounded, x).bfloat16()
