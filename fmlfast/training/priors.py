"""Fits priors to training clips: the shape prior before training (EM), the prior of codes after it."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from fmlfast.data.frames import Frames
from fmlfast.data.loader import ClipDataset
from fmlfast.kernels.deform import skin_displacements
from fmlfast.losses import expression_label_loss
from fmlfast.model.fml import FML, expression_from
from fmlfast.model.landmark_fit import LandmarkObservations

_UNSEEN = 1e-3  # mm^2
_HEAD_RATE = 1e-3  # the first learning rate of the expression head


def fit_shape_prior(model: FML, clips: ClipDataset, most: int = 480) -> None:
    """Learns the shape prior and mean expression of the landmark fit from the points of at most `most` clips, by EM."""
    model.learn_shape_prior([LandmarkObservations.of(frames) for frames in _some(clips, most)])


@torch.no_grad()
def settle_mean(model: FML) -> None:
    """Takes out of the learned mean face what hardly moves the face region.

    No clip shows it, so training lets it drift: tens of millimetres at crown and neck. The learned change d of the
    fields' coefficients becomes the minimum of |A (d' - d)|^2 + 0.001 mm^2 |d'|^2, with A the root mean square
    displacement of the face region.
    """
    face, template = model.face, model.template
    if face.identity_mean is None:
        return
    fields = face.smooth.view(len(face.smooth), -1, 3)
    moved = skin_displacements(fields, template.skin_indices, template.skin_weights, model.backend)  # [N, V, 3]
    weights = template.regions["face"] / template.regions["face"].sum()
    rows = (moved * weights.sqrt()[:, None]).flatten(1).double()
    square = rows @ rows.T
    damping = _UNSEEN * torch.eye(len(rows), dtype=rows.dtype, device=rows.device)
    face.identity_mean.copy_(torch.linalg.solve(square + damping, square @ face.identity_mean.double()))


@torch.no_grad()
def fit_code_prior(model: FML, clips: ClipDataset, most: int = 512) -> None:
    """Fits refinement's Gaussian prior: mean and square root of the codes' covariance over training clips."""
    model.eval()
    codes = []
    for frames in _some(clips, most):
        seen = model.observe(frames.to(model.code_mean.device))
        found = model.codes(seen)  # without fitting light, which is not used
        codes.append(torch.cat([found.identity[:, : model.config.identity_dim], found.reflectance], 1))
    stacked = torch.cat(codes)
    share = len(stacked) / (len(stacked) + 32)  # the previous prior counts as 32 clips
    mean = torch.lerp(model.code_mean, stacked.mean(0), share)
    scatter = (stacked - mean).T @ (stacked - mean) / len(stacked)
    values, vectors = torch.linalg.eigh(torch.lerp(model.code_factor.T @ model.code_factor, scatter, share))
    spread = (values.clamp(min=0.0) + 2e-3 * values.max()).sqrt()
    model.code_mean.copy_(mean)
    model.code_factor.copy_(spread[:, None] * vectors.T)


def settle_expressions(model: FML, clips: ClipDataset, most: int = 4096, steps: int = 2000, batch: int = 256) -> None:
    """Trains the encoder's expression head on, alone, on the labelled frames of at most `most` clips.

    Training shows few people a step and normalises by them, which the absolute error of expressions suffers from. Here
    the rest of the encoder is fixed, so that its outputs are computed once and steps are cheap. Does nothing for models
    without a landmark fit and for clips without labels.
    """
    head = model.encoder.expression_out
    if head is None or model.shape_fit is None:
        return
    model.eval()
    parts = [_labelled(model, frames.to(model.code_mean.device)) for frames in _some(clips, most)]
    aux, rest, began, labels = (torch.cat(some) for some in zip(*parts, strict=True))
    known = (model.noise.score > 0).float()
    if not len(aux):
        return
    optimizer = torch.optim.Adam(head.parameters(), betas=(0.9, 0.99))
    draws = torch.Generator().manual_seed(0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = _HEAD_RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        rows = torch.randint(len(aux), (batch,), generator=draws).to(aux.device)
        found = expression_from(began[rows], rest[rows] + head(aux[rows]))
        optimizer.zero_grad()
        expression_label_loss(found, labels[rows], known).mean().backward()
        optimizer.step()


@torch.no_grad()
def _labelled(model: FML, frames: Frames) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Computes what the expression head gets and what it adds to, and the labels, in the labelled frames.

    Returns normalised features [F, N], the other outputs [F, E], the landmark fit's expressions [F, E], labels [F, E].
    """
    seen, names = model.observe(frames), model.noise.score
    assert seen.aux_features is not None and seen.start is not None and seen.start.expression is not None
    head, aux = model.encoder.expression_out, model.encoder.normalise(seen.aux_features, seen.aux_mask)
    assert head is not None
    _, raw = model.encoder(seen.inputs, seen.mask, seen.aux_features, seen.aux_mask)
    rest = raw.flatten(0, 1)[:, -len(names) :] - head(aux)
    used = (frames.expression_known > 0).logical_and(frames.mask).flatten()
    labels = frames.expression_labels.flatten(0, 1)[:, names]
    return aux[used], rest[used], seen.start.expression[used], labels[used]


def _some(clips: ClipDataset, most: int, batch: int = 32) -> Iterator[Frames]:
    """Yields batches of at most `most` clips, drawn at random, as neighbours often show one person."""
    drawn = torch.randperm(len(clips), generator=torch.Generator().manual_seed(0))[:most]
    for some in drawn.split(batch):
        yield Frames.whole([clips[i] for i in some.tolist()])
