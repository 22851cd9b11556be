"""Joins encoder and face model in one module that is saved to and loaded from a run folder."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmlfast.common.atomic import atomic_path
from fmlfast.common.tensor_file import write_tensors
from fmlfast.common.tensors import constant, exact, independent
from fmlfast.data.frames import Frames
from fmlfast.data.landmark_assets import landmarks_version
from fmlfast.ibug68 import LANDMARKS_66
from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.common.topology import unique_edges
from fmlfast.kernels.normals import vertex_normals
from fmlfast.model.codes import Codes, expression_from
from fmlfast.model.config import ModelConfig, load_template
from fmlfast.model.detector_noise import DetectorNoise
from fmlfast.model.encoder import Encoder
from fmlfast.model.face_model import FaceModel
from fmlfast.model.landmark_fit import InitialFit, LandmarkFit, LandmarkObservations
from fmlfast.model.landmark_pose import CROP_HALF_WIDTH, align_to_front, fit_pose
from fmlfast.model.lighting import light_from_image, light_weights
from fmlfast.model.observation import DESCRIPTION, Observation, aligned_crop, aux_features, describe, resized_crop
from fmlfast.model.shape_prior import learn_shape_prior
from fmlfast.model.skin_tone import estimate_skin_tone, observe_skin
from fmlfast.model.stored_model import CONFIG, WEIGHTS, read_model
from fmlfast.model.vertex_weights import shown_region, vertex_weights
from fmlfast.rotation import FRONTAL, rotation_about_view, rotation_from_axis_angle
from fmlfast.template.face_template import FaceTemplate

START_FIELDS = 80  # smooth fields of the landmark fit: more cost time and gain little
PLAIN_DEPTH_WIDTH = 2.2 * CROP_HALF_WIDTH  # mm that an unaligned crop spans at the face's usual depth


class FML(nn.Module):
    """Encodes frames to codes and decodes codes to the geometry and reflectance of faces (paper figure 2)."""

    code_mean: Tensor  # [K + Kr]
    code_factor: Tensor  # [K + Kr, K + Kr]
    mesh_edges: Tensor  # [N, 2] int64
    landmark_points: Tensor  # [66, 3] mm
    shown: Tensor  # [V] weight in the photometric loss where visible
    light_weights: Tensor  # [V]

    def __init__(self, config: ModelConfig, template: FaceTemplate | None = None) -> None:
        super().__init__()
        self.config = config
        self.template = template or load_template(config)
        self.landmark_mesh = self.template.landmark_part()
        self.face = FaceModel(
            self.template,
            config.identity_dim,
            config.reflectance_dim,
            config.complement_rank,
            config.smooth_basis,
            config.learned_mean,
            config.light_complement,
        )
        self.num_expressions = len(self.template.expressions)
        codes = config.identity_dim + config.reflectance_dim
        aligned = config.inputs == "aligned"
        if config.shape_init and not aligned:
            raise ValueError("shape_init needs aligned inputs: set --model.inputs aligned or --model.no-shape-init")
        self.noise = DetectorNoise(self.template)
        self.shape_fit, started = None, 0
        if config.shape_init:
            self.shape_fit = LandmarkFit(self.template, min(START_FIELDS, len(self.face.smooth)))
            self.shape_fit.set_fields(self.face.smooth, self.face.population_mean)
            started = self.shape_fit.count + self.num_expressions
        aux = (2 * len(LANDMARKS_66) + 13 if aligned else 0) + started + DESCRIPTION * config.described
        of_frames = 33 + self.num_expressions, self.num_expressions
        self.encoder = Encoder(config.input_size, config.channels, config.width, aux, codes, *of_frames)
        # Mean and square root of the covariance of codes over training subjects: refinement's Gaussian prior.
        self.register_buffer("code_mean", torch.zeros(codes))
        self.register_buffer("code_factor", torch.eye(codes))
        edges = unique_edges(self.template.triangles)
        # For the sparsity of reflectance, without the mouth's inside, which must not lighten to skin colour.
        skin = ~self.template.mouth_and_lashes[edges].any(1)
        self.register_buffer("mesh_edges", edges[skin], persistent=False)
        points = self.template.landmarks(self.template.vertices)[list(LANDMARKS_66)]
        self.register_buffer("landmark_points", points, persistent=False)
        self.register_buffer("shown", shown_region(self.template, config.visibility), persistent=False)
        self.register_buffer("light_weights", light_weights(self.template), persistent=False)

    @property
    def backend(self) -> Backend | None:
        """Kernels to run: "torch", "triton", or None for the device's default. Not part of a checkpoint."""
        return self.face.backend

    @backend.setter
    def backend(self, backend: Backend | None) -> None:
        self.face.backend = backend

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves the template with the parameters to another device."""
        super()._apply(fn, recurse)
        self.template = self.face.template = self.template.to(self.code_mean.device)
        self.landmark_mesh = self.landmark_mesh.to(self.code_mean.device)
        return self

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Loads the parameters and updates the landmark fit's copy of the smooth fields."""
        found = super().load_state_dict(state_dict, strict, assign)
        if self.shape_fit is not None:
            self.shape_fit.set_fields(self.face.smooth, self.face.population_mean)
        return found

    def learn_shape_prior(self, people: Sequence[LandmarkObservations]) -> None:
        """Learns mean and covariance of shapes and mean expression from landmarks (EM), before any training.

        Raises ValueError where the config has no shape_init.
        """
        if self.shape_fit is None:
            raise ValueError("the shape prior is part of the shape's start; switch shape_init on")
        learned = learn_shape_prior(self.template, self.face.smooth, people, self.config.learned_mean)
        self.face.set_population(learned.smooth, learned.mean)
        self.shape_fit.usual.copy_(learned.expression)
        self.shape_fit.set_fields(learned.smooth, learned.mean)

    @exact
    def encode(self, frames: Frames) -> Codes:
        """Predicts the codes of the subjects in `frames`; with `light_fit` light is fitted to the images."""
        codes = self.codes(self.observe(frames))
        return self.fit_light(frames, codes) if self.config.light_fit else codes

    @exact
    @torch.no_grad()
    def observe(
        self,
        frames: Frames,
        noise: Tensor | None = None,  # [B, M, 68, 2] px
        landmark_mask: Tensor | None = None,  # [B, M, 68] bool
        smooth: Tensor | None = None,  # [B, N]
    ) -> Observation:
        """Prepares the encoder's inputs; no learned parameter of the encoder is used.

        In training `noise` is added to landmarks, and the encoder does not get those where `landmark_mask` is False.
        The landmark fit keeps a shape that is known, `smooth`.
        """
        size = frames.images.shape[-1]
        if self.config.inputs == "paper":
            small = resized_crop(frames.images, self.config.input_size)
            return Observation(small, frames.mask, frames.Ks.flatten(0, 1), size)
        seen = LandmarkObservations.of(frames, noise, landmark_mask)
        alignment = align_to_front(seen.landmarks, self.landmark_points)
        rotation, translation = fit_pose(seen.landmarks, seen.Ks, self.landmark_points)
        pose = InitialFit(rotation, translation)
        start = pose if self.shape_fit is None else self.shape_fit(seen, pose, smooth)
        features, aux_mask = aux_features(seen, alignment, start), None
        if self.config.described:
            features = torch.cat([features, describe(frames, seen, alignment)], 1)
            aux_mask = torch.ones_like(features)
            aux_mask[:, -DESCRIPTION:] = (seen.precision.sum(1, keepdim=True) > 0).float()
        if landmark_mask is not None:
            used = constant(LANDMARKS_66, torch.int64, landmark_mask.device)
            points = landmark_mask[:, :, used].flatten(0, 1).float().repeat_interleave(2, 1)
            hidden = F.pad(points, (0, features.shape[1] - points.shape[1]), value=1.0)
            aux_mask = hidden if aux_mask is None else hidden * aux_mask
        crop = aligned_crop(frames.images, alignment, self.config.input_size)
        return Observation(crop, frames.mask, seen.Ks, size, features, aux_mask, alignment, start)

    @exact  # the encoder has an autocast of its own
    def codes(self, seen: Observation, encoder: nn.Module | None = None, known: Tensor | None = None) -> Codes:
        """Predicts codes; `encoder` may be a data-parallel wrapper, shared codes [B, K + Kr] may be `known`."""
        subjects, frames = (encoder or self.encoder)(seen.inputs, seen.mask, seen.aux_features, seen.aux_mask, known)
        return self._codes(subjects, frames, seen)

    def vertex_weights(
        self,
        camera: Tensor,  # [F, V, 3] mm
        normals: Tensor,  # [F, V, 3]
        Ks: Tensor,  # [F, 3, 3] px
        size: int,  # px, side of the image
    ) -> Tensor:  # [F, V]
        """Computes the vertices' weights in the photometric loss: the region's weight where visible, 0 else."""
        triangles, visibility = self.template.triangles, self.config.visibility
        return vertex_weights(self.shown, triangles, camera, normals, Ks, size, visibility, self.backend)

    @torch.no_grad()
    def fit_light(self, frames: Frames, codes: Codes) -> Codes:
        """Replaces light and skin tone of `codes` by what the images of `frames` tell."""
        camera, pattern = self.camera_vertices(codes).flatten(0, 1), self.pattern(codes)
        product = self.fit_light_times_tone(frames, camera, pattern)
        skin, features = observe_skin(self.template, frames, camera, pattern, product, self.backend)
        tone = estimate_skin_tone(features, frames.mask) - skin.log()
        return replace(codes, tone=tone, sh=product / tone.exp()[:, None, None])

    @torch.no_grad()
    def fit_light_times_tone(
        self,
        frames: Frames,
        camera: Tensor,  # [F, V, 3] mm
        pattern: Tensor,  # [B, V, 3] reflectance without skin tone
    ) -> Tensor:  # [B, M, 9, 3]
        """Fits the light of a face without skin tone to the images by robust least squares."""
        Ks = frames.Ks.flatten(0, 1)
        normals = vertex_normals(camera, self.template.triangles, self.backend)
        visible = self.vertex_weights(camera, normals, Ks, frames.images.shape[-1])
        linear = frames.linear.flatten(0, 1)
        sh = light_from_image(linear, camera, Ks, self.face.occluded(pattern), normals, visible, self.light_weights)
        return sh.unflatten(0, frames.mask.shape)

    def displacements(self, codes: Codes) -> Tensor:
        """Computes graph node displacements of identity, [B, G, 3] mm."""
        return self.face.displacements(codes.identity)

    def neutral(self, codes: Codes, template: FaceTemplate | None = None) -> Tensor:
        """Computes neutral geometry in the model frame, [B, V, 3] mm."""
        return self.face.neutral(self.displacements(codes), template)

    def geometry(self, codes: Codes, template: FaceTemplate | None = None) -> Tensor:
        """Computes geometry with expression in the model frame, [B, M, V, 3] mm."""
        return self.face.geometry(self.displacements(codes), codes.expression, template=template)

    def camera_vertices(self, codes: Codes, template: FaceTemplate | None = None) -> Tensor:
        """Computes geometry with expression in the camera frame, [B, M, V, 3] mm."""
        pose = codes.rotation, codes.translation
        return self.face.geometry(self.displacements(codes), codes.expression, *pose, template)

    def reflectance(self, codes: Codes, template: FaceTemplate | None = None) -> Tensor:
        """Computes per-vertex reflectance, [B, V, 3] linear RGB."""
        return self.pattern(codes, template) * codes.tone.exp()[:, None]

    def pattern(self, codes: Codes, template: FaceTemplate | None = None) -> Tensor:
        """Computes per-vertex reflectance with its detail, but without the person's skin tone, [B, V, 3] linear RGB."""
        return self.face.reflectance(codes.reflectance, codes.detail, template)

    def _codes(
        self,
        codes: Tensor,  # [B, K + Kr]
        raw: Tensor,  # [B, M, 33 + E]
        seen: Observation,
    ) -> Codes:
        """Converts outputs of the encoder to codes, relative to the landmark fit where there is one."""
        flat, start, Ks = raw.flatten(0, 1), seen.start, seen.Ks
        turn, shift, light, delta = flat.split([3, 3, 27, self.num_expressions], 1)
        turned = rotation_from_axis_angle(0.5 * turn)
        if start is not None and seen.alignment is not None:
            roll, rotation, place = rotation_about_view(seen.alignment.roll), start.rotation, start.translation
            depth = place[:, 2] * torch.exp(0.1 * shift[:, 2])
            center, scale = place[:, :2] / place[:, 2:], 20.0 / place[:, 2:]
        else:
            focal = torch.stack([Ks[:, 0, 0], Ks[:, 1, 1]], 1)
            frontal = constant(FRONTAL, flat.dtype, flat.device)
            roll, rotation = torch.eye(3, device=flat.device).expand_as(turned), frontal
            depth = PLAIN_DEPTH_WIDTH * focal[:, 0] / seen.size * torch.exp(0.2 * shift[:, 2])
            center, scale = (seen.size / 2 - Ks[:, :2, 2]) / focal, 20.0 / depth[:, None]
        rotation = roll @ turned @ roll.transpose(1, 2) @ rotation
        ray = center + (roll[:, :2, :2] @ shift[:, :2, None])[..., 0] * scale
        translation = torch.cat([ray, torch.ones_like(ray[:, :1])], 1) * depth[:, None]
        sh = light.unflatten(1, (9, 3)) + torch.eye(9, 1, device=flat.device) * 0.75
        alpha, beta = codes.split([self.config.identity_dim, self.config.reflectance_dim], 1)
        began = None if start is None else start.expression
        if began is None:
            # Initial values near 0.03 with a slope of 0.08: small, and the gradient does not vanish.
            delta = F.softplus(3 * delta - 2.5) / 3
        else:
            delta = expression_from(began, delta)
        if start is not None and start.smooth is not None:
            alpha = torch.cat([alpha, start.smooth], 1)
        return Codes(
            identity=alpha,
            reflectance=beta,
            tone=beta.new_zeros(len(beta), 3),
            detail=beta.new_zeros(len(beta), 0, 3),
            rotation=rotation.unflatten(0, raw.shape[:2]),
            translation=translation.unflatten(0, raw.shape[:2]),
            sh=sh.unflatten(0, raw.shape[:2]),
            expression=delta.unflatten(0, raw.shape[:2]),
        )

    def save(self, folder: str | Path, **extra: Any) -> None:
        """Writes model.safetensors and config.json, each whole or not at all; `extra` joins the config."""
        folder = Path(folder)
        config = {
            "model": asdict(self.config),
            "template": {"name": self.template.name, "fingerprint": self.template.fingerprint},
            "landmarks": landmarks_version(),
            **extra,
        }
        with atomic_path(folder / CONFIG) as path:
            path.write_text(json.dumps(config, indent=2, default=str) + "\n")
        with atomic_path(folder / WEIGHTS) as path:
            write_tensors(path, self.state_dict())

    @classmethod
    @independent
    def load(cls, folder: str | Path, device: torch.device | str = "cpu") -> "FML":
        """Loads the model of a run folder, in evaluation mode.

        Raises ValueError, naming the file, where the folder is no run, is damaged, or was trained on another template.
        """
        folder = Path(folder)
        stored = read_model(folder)
        try:
            model = cls(stored.config, stored.template)
        except ValueError as error:
            raise ValueError(f"{folder / CONFIG}: {error}") from error
        known = {"face.population_mean": model.face.population_mean} | stored.weights  # 0 in checkpoints of before
        try:
            model.load_state_dict(known)
        except RuntimeError as error:
            raise ValueError(f"{folder / WEIGHTS} does not hold this model: {error}") from error
        return model.eval().to(device)
