"""Stacks frames of several subjects into one batch of tensors, the encoder's input."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fmlfast.color import srgb_to_linear
from fmlfast.common.tensors import TensorBatch
from fmlfast.data.detection import LABELS, Detection
from fmlfast.data.mediapipe478 import NUM_POINTS
from fmlfast.data.shards import Clip

_SAME = 0.05  # px; crops of the same points differ by their rounding, simulated landmarks by far more


@dataclass
class Frames(TensorBatch):
    """A batch of M frames of each of B subjects; frames with mask False are padding and ignored."""

    images: Tensor  # [B, M, 3, S, S] sRGB, float in [0, 1] or, as the loader gives them, uint8 in 0..255
    landmarks: Tensor  # [B, M, 68, 2] px, the detector's where it was asked
    confidence: Tensor  # [B, M, 68] in [0, 1]
    labels: Tensor  # [B, M, 68, 2] px, landmarks stored with the clip: simulated in synthetic clips
    label_confidence: Tensor  # [B, M, 68] in [0, 1]
    surface_labels: Tensor  # [B, M, 478, 2] px, surface points that the renderer of synthetic clips knows
    surface_known: Tensor  # [B, M] 1 where there are such labels, else 0
    expression_labels: Tensor  # [B, M, 52] expressions that the renderer of synthetic clips knows, in the scores' order
    expression_known: Tensor  # [B, M] 1 where there are such labels, else 0
    color_labels: Tensor  # [B, M, 478, 3] linear RGB, reflectance around surface points, of synthetic clips
    color_known: Tensor  # [B, M] 1 where there are such labels, else 0
    Ks: Tensor  # [B, M, 3, 3] px
    surface: Tensor  # [B, M, 478, 2] px, points of the template's surface, by detector and landmark network
    precision: Tensor  # [B, M, 478] px^-2, inverse variance of `surface`; 0 where the detector was not asked
    scores: Tensor  # [B, M, 52] the detector's blendshape scores in [0, 1]
    features: Tensor  # [B, M, 2, 512] the landmark network's, of the image and of its mirror image
    mask: Tensor  # [B, M] bool

    def unpacked(self) -> "Frames":
        """Converts uint8 images to float32 in [0, 1]; returns itself when they are float already."""
        if self.images.is_floating_point():
            return self
        return replace(self, images=self.images.float().mul_(1 / 255))

    @cached_property
    def linear(self) -> Tensor:
        """The images in linear RGB, [B, M, 3, S, S]."""
        return srgb_to_linear(self.unpacked().images)

    def labelled(self) -> "Frames":
        """Replaces the landmarks by the stored ones, which training compares with.

        Surface points are left out where the stored landmarks are not the detector's own: simulated ones, whose errors
        are independent, are better labels.
        """
        own = ((self.labels - self.landmarks).abs() < _SAME).flatten(2).all(2)
        precision = self.precision * own[..., None]
        return replace(self, landmarks=self.labels, confidence=self.label_confidence, precision=precision)

    def undetected(
        self,
        chosen: Tensor,  # [B] bool
    ) -> "Frames":
        """Replaces the detector's points of the `chosen` subjects by the stored landmarks."""
        pick = chosen[:, None, None]
        return replace(
            self,
            landmarks=torch.where(pick[..., None], self.labels, self.landmarks),
            confidence=torch.where(pick, self.label_confidence, self.confidence),
            precision=self.precision * ~pick,
        )

    def unlabelled(self) -> "Frames":
        """Removes the renderer's labels, which only training may see."""
        none = torch.zeros_like(self.surface_known)
        return replace(self, surface_known=none, expression_known=none, color_known=none)

    def only(self, frames: Sequence[int]) -> "Frames":
        """Selects frames by their numbers, the same ones of every subject."""
        index = torch.as_tensor(frames, device=self.mask.device)
        return Frames(**{f.name: getattr(self, f.name)[:, index] for f in fields(self)})

    def each_alone(self) -> "Frames":
        """Reshapes the batch to B*M subjects with one frame each."""
        return Frames(**{f.name: getattr(self, f.name).flatten(0, 1)[:, None] for f in fields(self)})

    @classmethod
    def from_clips(cls, clips: Sequence[Clip], size: int, frames: int | None = None) -> "Frames":
        """Stacks clips, resized to `size` px, with float images.

        Clips shorter than `frames` (default: the longest) repeat their frames under a False mask, so that padding never
        distorts batch statistics. Raises ValueError for no clips.
        """
        return cls.whole([ClipTensors.of(resize_clip(clip, size)) for clip in clips], frames)

    @classmethod
    def whole(cls, clips: "Sequence[ClipTensors]", frames: int | None = None) -> "Frames":
        """Stacks all frames of each clip, at most `frames` (default: those of the longest), with float images."""
        if not clips:
            raise ValueError("no clips given; at least one is needed to make a batch")
        count = frames or max(len(clip.images) for clip in clips)
        return cls.stack(clips, [range(min(count, len(clip.images))) for clip in clips], count).unpacked()

    @classmethod
    def stack(cls, clips: "Sequence[ClipTensors]", chosen: Sequence[Sequence[int]], frames: int) -> "Frames":
        """Stacks the `chosen` frames of each clip with uint8 images, padded to `frames` under a False mask.

        Padding repeats the chosen frames.
        """
        rows = [torch.arange(frames) % len(some) for some in chosen]
        picks = [torch.as_tensor(some)[row] for some, row in zip(chosen, rows, strict=True)]
        stacked = {}
        for name in (f.name for f in fields(ClipTensors)):
            parts = [getattr(clip, name) for clip in clips]
            stacked[name] = torch.empty(len(clips), frames, *parts[0].shape[1:], dtype=parts[0].dtype)
            for part, pick, place in zip(parts, picks, stacked[name], strict=True):
                torch.index_select(part, 0, pick, out=place)  # one copy, of the chosen frames only
        mask = torch.stack([torch.arange(frames) < len(some) for some in chosen])
        return cls(**stacked, mask=mask)


@dataclass
class ClipTensors:
    """Images and labels of one clip of n frames, as stored, for training."""

    images: Tensor  # [n, 3, S, S] uint8 sRGB
    landmarks: Tensor  # [n, 68, 2] px
    confidence: Tensor  # [n, 68]
    labels: Tensor  # [n, 68, 2] px
    label_confidence: Tensor  # [n, 68]
    surface_labels: Tensor  # [n, 478, 2] px
    surface_known: Tensor  # [n]
    expression_labels: Tensor  # [n, 52]
    expression_known: Tensor  # [n]
    color_labels: Tensor  # [n, 478, 3] linear RGB
    color_known: Tensor  # [n]
    Ks: Tensor  # [n, 3, 3] px
    surface: Tensor  # [n, 478, 2] px
    precision: Tensor  # [n, 478] px^-2
    scores: Tensor  # [n, 52]
    features: Tensor  # [n, 2, 512]

    @classmethod
    def of(cls, clip: Clip) -> "ClipTensors":
        """Converts a clip's arrays to tensors.

        The landmarks are the detector's in frames where it found the face, else the clip's own.
        """
        images = torch.from_numpy(clip.images).permute(0, 3, 1, 2)
        seen = clip.detection or Detection.none(clip.frames)
        found = seen.found[:, None]
        landmarks = np.where(found[..., None], seen.surface[:, NUM_POINTS:], clip.landmarks)
        confidence = np.where(found, seen.confidence, clip.confidence).astype(np.float32)
        with np.errstate(divide="ignore"):
            precision = np.where(found, seen.spread**-2, 0).astype(np.float32)
        labels = []
        for name, tail in LABELS.items():
            known = getattr(clip, name)
            labels += [np.zeros((clip.frames, *tail), np.float32) if known is None else known]
            labels += [np.full(clip.frames, known is not None, np.float32)]
        marks = landmarks, confidence, clip.landmarks, clip.confidence, *labels
        own = *marks, clip.Ks, seen.surface[:, :NUM_POINTS], precision[:, :NUM_POINTS], seen.scores, seen.features
        return cls(images, *(torch.from_numpy(np.ascontiguousarray(array)) for array in own))


def resize_clip(clip: Clip, size: int) -> Clip:
    """Resizes a clip's images to `size` px (bilinear) and scales all that is in pixels to match."""
    old = clip.images.shape[1]
    if old == size:
        return clip
    factor = size / old
    images = np.stack(
        [np.asarray(Image.fromarray(i).resize((size, size), Image.Resampling.BILINEAR)) for i in clip.images]
    )
    Ks = clip.Ks.copy()
    Ks[:, :2] *= factor
    crop_to_source = clip.crop_to_source.copy()
    crop_to_source[:, :, :2] /= factor
    detection = clip.detection and clip.detection.moved(factor)
    labels = None if clip.surface_labels is None else clip.surface_labels * np.float32(factor)
    pixels = {"images": images, "landmarks": clip.landmarks * factor, "Ks": Ks, "crop_to_source": crop_to_source}
    return replace(clip, **pixels, detection=detection, surface_labels=labels)
