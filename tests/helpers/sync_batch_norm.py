"""BatchNorm over several processes on a CPU, so that training in several processes can be tested without GPUs."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm


def synchronised(module: nn.Module) -> nn.Module:
    """As torch.nn.SyncBatchNorm.convert_sync_batchnorm, in place."""
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.__class__ = SynchronisedBatchNorm
    return module


class SynchronisedBatchNorm(_BatchNorm):
    """BatchNorm in training, normalising by all processes' batch."""

    def forward(self, input: Tensor) -> Tensor:  # [N, C, ...]
        return _Normalise.apply(input, self.weight, self.bias, self)


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias over all processes; two small exchanges."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # [N, C, ...]
        weight: Tensor | None,  # [C]
        bias: Tensor | None,  # [C]
        norm: _BatchNorm,
    ) -> Tensor:
        others, channels = _channelwise(x)
        variance, mean = (m.double() for m in torch.var_mean(x, others, correction=0))
        # In float64 the difference below loses nothing that float32 could tell.
        sums = torch.stack([torch.ones_like(mean), mean, variance + mean.square()]) * (x.numel() / len(mean))
        dist.all_reduce(sums)
        count, mean, square = sums[0, 0], sums[1] / sums[0], sums[2] / sums[0]
        variance = (square - mean.square()).clamp_min(0)
        if norm.running_mean is not None and norm.running_var is not None and norm.momentum is not None:
            unbiased = variance * count / (count - 1)
            norm.running_mean.lerp_(mean.to(x.dtype), norm.momentum)
            norm.running_var.lerp_(unbiased.to(x.dtype), norm.momentum)
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
        inverse = (variance + norm.eps).rsqrt().to(x.dtype)
        mean = mean.to(x.dtype)
        ctx.save_for_backward(x, weight, mean, inverse, count.to(x.dtype))
        scale = inverse if weight is None else inverse * weight
        shifted = (x - mean.view(channels)) * scale.view(channels)
        return shifted if bias is None else shifted + bias.view(channels)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:  # [N, C, ...]
        x, weight, mean, inverse, count = ctx.saved_tensors
        others, channels = _channelwise(x)
        normed = (x - mean.view(channels)) * inverse.view(channels)
        own = torch.stack([upstream.sum(others), (upstream * normed).sum(others)])
        sums = own.clone()
        dist.all_reduce(sums)  # the losses of other processes depend on this one's x through mean and variance
        along, turn = (sums / count).view(2, *channels)
        scale = inverse if weight is None else inverse * weight
        gradient = (upstream - along - normed * turn) * scale.view(channels)
        return gradient, own[1] if ctx.needs_input_grad[1] else None, own[0] if ctx.needs_input_grad[2] else None, None


def _channelwise(x: Tensor) -> tuple[list[int], tuple[int, ...]]:
    """All dimensions of [N, C, ...] but the second, and the shape in which [C] multiplies it."""
    others = [0, *range(2, x.dim())]
    return others, (-1, *[1] * (x.dim() - 2))
