"""Computes the encoder's auxiliary features from landmarks and the landmark fit."""

import torch
from torch import Tensor

from fmlfast.common.tensors import constant
from fmlfast.model.landmark_fit import InitialFit, LandmarkObservations
from fmlfast.model.landmark_pose import CROP_HALF_WIDTH, Alignment, to_rays
from fmlfast.rotation import FRONTAL, rotation_about_view


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
