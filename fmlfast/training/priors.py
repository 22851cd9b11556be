"""Fits priors to training clips: the shape prior before training (EM), the prior of codes after it."""

from collections.abc import Iterator

import torch

from fmlfast.data.frames import Frames
from fmlfast.data.loader import ClipDataset
from fmlfast.model.fml import FML
from fmlfast.model.landmark_fit import LandmarkObservations


def fit_shape_prior(model: FML, clips: ClipDataset, most: int = 480) -> None:
    """Learns the shape prior and mean expression of the landmark fit from the points of at most `most` clips, by EM."""
    model.learn_shape_prior([LandmarkObservations.of(frames) for frames in some_clips(clips, most)])


@torch.no_grad()
def fit_code_prior(model: FML, clips: ClipDataset, most: int = 512) -> None:
    """Fits refinement's Gaussian prior: mean and square root of the codes' covariance over training clips."""
    model.eval()
    codes = []
    for frames in some_clips(clips, most):
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


def some_clips(clips: ClipDataset, most: int, batch: int = 32) -> Iterator[Frames]:
    """Yields batches of at most `most` clips, drawn at random, as neighbours often show one person."""
    drawn = torch.randperm(len(clips), generator=torch.Generator().manual_seed(0))[:most]
    for some in drawn.split(batch):
        yield Frames.whole([clips[i] for i in some.tolist()])
