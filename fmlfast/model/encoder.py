"""Defines the Siamese encoder: shared tower, pooled identity branch, per-frame branch (paper section 4)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SQUEEZE = 48  # channels of the convolution features that the dense layers get


def masked_mean(
    features: Tensor,  # [B, M, C]
    mask: Tensor,  # [B, M] bool
) -> Tensor:  # [B, C]
    """Averages features over a subject's valid frames, so that any number of frames per subject works."""
    weight = mask.to(features.dtype)[..., None]
    return (features * weight).sum(1) / weight.sum(1).clamp(min=1.0)


def conv_stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Builds a 3x3 convolution, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def mlp(inputs: int, width: int) -> nn.Sequential:
    """Builds two dense layers with ReLU."""
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())


def dense_inputs(input_size: int, stages: int) -> int:
    """Counts the inputs of the dense layers, for images of `input_size` px after so many stride-2 stages."""
    return SQUEEZE * (-(-input_size // 2**stages)) ** 2


class Head(nn.Module):
    """Reduces convolution features by a 1x1 convolution and dense layers, and joins auxiliary features if any.

    The features are flattened, not pooled, to keep their positions.
    """

    def __init__(self, channels: int, inputs: int, aux: int, width: int, extra_stage: bool) -> None:
        super().__init__()
        stages = [conv_stage(channels, channels, 1)] if extra_stage else []
        self.convolution = nn.Sequential(*stages, nn.Conv2d(channels, SQUEEZE, 1), nn.ReLU())
        self.dense = nn.Sequential(nn.Linear(inputs, width), nn.ReLU())
        self.side = mlp(aux, width) if aux else None
        self.join = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU()) if aux else None

    def forward(self, features: Tensor, aux_features: Tensor | None) -> Tensor:
        """Maps features [F, C, s, s] and aux_features [F, N] (or None) to [F, width]."""
        joined = self.dense(self.convolution(features).flatten(1))
        if self.side is None or self.join is None:
            return joined
        return self.join(torch.cat([joined, self.side(aux_features)], 1))


class Encoder(nn.Module):
    """Encodes images and auxiliary features of B x M frames to B subjects' codes and raw frame outputs."""

    def __init__(
        self,
        input_size: int,  # px, side of the network's input
        channels: tuple[int, ...],
        width: int,
        aux: int,  # number of auxiliary features; 0 for images alone (the paper)
        identity_codes: int,
        frame_parameters: int,
        expressions: int,  # the last ones of these
    ) -> None:
        super().__init__()
        stages = [conv_stage(a, b, 2) for a, b in zip((3, *channels), channels, strict=False)]
        self.tower = nn.Sequential(*stages)
        inputs = dense_inputs(input_size, len(channels))
        self.identity_head = Head(channels[-1], inputs, aux, width, extra_stage=True)
        self.frame_head = Head(channels[-1], inputs, aux, width, extra_stage=False)
        self.side_norm = nn.BatchNorm1d(aux, affine=False, momentum=0.05) if aux else None
        self.identity_out = nn.Linear(width, identity_codes, bias=False)  # code_norm would remove a bias
        # Unit-variance codes: the learned basis carries the scale, so codes cannot drift to a biased mean.
        self.code_norm = nn.BatchNorm1d(identity_codes, affine=False, momentum=0.02)
        self.frame_mix = nn.Sequential(nn.Linear(width + identity_codes, width), nn.ReLU())
        self.frame_out = nn.Linear(width, frame_parameters)
        # Past the joint layers, which learn slowly what scores, gaze and features tell of expressions.
        self.expression_out = nn.Sequential(mlp(aux, width), nn.Linear(width, expressions)) if aux else None
        with torch.no_grad():
            self.frame_out.weight.mul_(0.3)
            self.frame_out.bias.zero_()
        self.bf16 = False  # set by training on a GPU
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(
        self,
        images: Tensor,  # [B, M, 3, s, s] sRGB in [0, 1]
        mask: Tensor,  # [B, M] bool
        aux_features: Tensor | None,  # [B*M, N]
        aux_mask: Tensor | None = None,  # [B*M, N], 0 or 1: dropout of auxiliary features in training
        known: Tensor | None = None,  # [B, identity_codes]
    ) -> tuple[Tensor, Tensor]:  # [B, identity_codes], [B, M, frame_parameters]
        """Predicts the codes shared by a subject's frames (alpha, then beta) and each frame's raw parameters.

        Shared codes that are `known` are not predicted.
        """
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            return self._forward(images, mask, aux_features, aux_mask, known)

    def _forward(
        self,
        images: Tensor,
        mask: Tensor,
        aux_features: Tensor | None,
        aux_mask: Tensor | None,
        known: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        subjects, frames = mask.shape
        stacked = ((images.flatten(0, 1) - 0.45) * 3).contiguous(memory_format=torch.channels_last)
        features = self.tower(stacked)
        if aux_features is not None:
            aux_features = self.normalise(aux_features, aux_mask)
        if known is None:
            pooled = masked_mean(self.identity_head(features, aux_features).unflatten(0, (subjects, frames)), mask)
            codes: Tensor = self.code_norm(self.identity_out(pooled).float())
        else:
            codes = known
        shared = codes[:, None].expand(-1, frames, -1).flatten(0, 1)
        mixed = self.frame_mix(torch.cat([self.frame_head(features, aux_features), shared], 1))
        raw = self.frame_out(mixed).float()
        if self.expression_out is not None:
            told = self.expression_out(aux_features).float()
            raw = raw + F.pad(told, (raw.shape[1] - told.shape[1], 0))
        return codes, raw.unflatten(0, (subjects, frames))

    def normalise(
        self,
        aux_features: Tensor,  # [F, N]
        aux_mask: Tensor | None,  # [F, N]
    ) -> Tensor:  # [F, N]
        """Normalises auxiliary features by their running statistics, and hides those that the mask leaves out.

        A batch's own statistics, of a few people, would move what tells of expressions by a third of its spread.
        """
        assert self.side_norm is not None
        self.side_norm(aux_features)  # keeps the running statistics in training
        normed = F.batch_norm(aux_features, self.side_norm.running_mean, self.side_norm.running_var).clamp(-4, 4)
        return normed if aux_mask is None else normed * aux_mask
