"""Holds the encoder's inputs, and computes the auxiliary features among them."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fmlfast.common.tensors import constant
from fmlfast.data.frames import Frames
from fmlfast.data.landmark_assets import FEATURES
from fmlfast.data.mediapipe478 import IRISES, NUM_SCORES
from fmlfast.ibug68 import EYES
from fmlfast.model.landmark_fit import InitialFit, LandmarkObservations
from fmlfast.model.landmark_pose import CROP_HALF_WIDTH, Alignment, to_rays
from fmlfast.rotation import FRONTAL, rotation_about_view

DESCRIPTION = 4 + NUM_SCORES + FEATURES


@dataclass(frozen=True)
class Observation:
    """The encoder's inputs of F = B*M frames, and the landmark fit that its outputs are relative to."""

    inputs: Tensor  # [B, M, 3, s, s] sRGB in [0, 1]
    mask: Tensor  # [B, M] bool
    Ks: Tensor  # [F, 3, 3] px
    size: int  # px, side of the frames
    aux_features: Tensor | None = None  # [F, N] aligned landmarks, starting pose and shape, description
    aux_mask: Tensor | None = None  # [F, N] 0 where an auxiliary feature is hidden, 1 else
    alignment: Alignment | None = None
    start: InitialFit | None = None


def describe(frames: Frames, seen: LandmarkObservations, alignment: Alignment) -> Tensor:  # [F, DESCRIPTION]
    """Concatenates what detector and landmark network tell of frames beside points: gaze, scores and features.

    Gaze is where the middle of each iris lies in its eye, in coordinates of the aligned crop.
    """
    gaze = []
    for iris, lids in zip(IRISES, EYES, strict=True):
        eye = seen.surface[:, iris].mean(1), frames.landmarks.flatten(0, 1)[:, lids].mean(1)
        gaze.append(alignment.to_crop(torch.stack(eye, 1)).diff(dim=1)[:, 0])
    return torch.cat([*gaze, seen.scores, frames.features[:, :, 0].flatten(0, 1)], 1)


def aux_features(seen: LandmarkObservations, alignment: Alignment, start: InitialFit) -> Tensor:
    """Concatenates aligned landmarks, fitted pose relative to the aligned crop, and fitted shape, [F, N]."""
    landmarks, Ks, rotation, translation = seen.landmarks, seen.Ks, start.rotation, start.translation
    unroll = rotation_about_view(-alignment.roll)
    scale = alignment.scale / Ks[:, 0, 0]  # rays in half a crop: how close the camera is
    center = to_rays(alignment.offset[:, None], Ks)[:, 0]
    shift = (translation[:, :2] / translation[:, 2:] - center) / scale[:, None]
    depth = torch.stack([translation[:, 2] * scale / CROP_HALF_WIDTH, scale * 4], 1).log()
    turned = (unroll @ rotation @ constant(FRONTAL, rotation.dtype, rotation.device)).flatten(1)
    pose = torch.cat([turned, (unroll[:, :2, :2] @ shift[..., None])[..., 0], depth], 1)
    parts = [alignment.to_crop(landmarks).flatten(1), pose]
    if start.smooth is not None and start.expression is not None:
        frames = len(landmarks) // len(start.smooth)
        parts += [start.smooth.repeat_interleave(frames, 0), start.expression]
    return torch.cat(parts, 1)


def resized_crop(
    images: Tensor,  # [B, M, 3, S, S]
    size: int,
) -> Tensor:  # [B, M, 3, size, size]
    """Resizes the plain crop."""
    if images.shape[-1] == size:
        return images
    flat = F.interpolate(images.flatten(0, 1), size=(size, size), mode="bilinear", antialias=True)
    return flat.unflatten(0, images.shape[:2])


def aligned_crop(
    images: Tensor,  # [B, M, 3, S, S]
    alignment: Alignment,
    size: int,
) -> Tensor:  # [B, M, 3, size, size]
    """Warps images to upright faces of one size."""
    flat, side = images.flatten(0, 1), images.shape[-1]
    theta = torch.cat([alignment.matrix * (2 / side), (alignment.offset * (2 / side) - 1)[..., None]], 2)
    grid = F.affine_grid(theta, [len(flat), 3, size, size], align_corners=False)
    flat = F.grid_sample(flat, grid, padding_mode="border", align_corners=False)
    return flat.unflatten(0, images.shape[:2])
