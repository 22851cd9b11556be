"""The whole system: encoder and face model behind one interface, saved to and loaded from a run folder."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fmlfast.common.atomic import atomic_path
from fmlfast.common.tensors import constant, exact
from fmlfast.data.frames import Frames
from fmlfast.ibug68 import LANDMARKS_66
from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.common.topology import unique_edges
from fmlfast.model.codes import Codes
from fmlfast.model.config import ModelConfig, load_template
from fmlfast.model.encoder import Encoder
from fmlfast.model.face_model import FaceModel
from fmlfast.model.landmark_fit import ShapeFit, ShapeStart, Sightings
from fmlfast.model.landmark_pose import CROP_HALF_WIDTH, Alignment, align_to_front, fit_pose, to_rays
from fmlfast.model.lighting import fitted_light
from fmlfast.model.shape_prior import learn_shape_prior
from fmlfast.rotation import FRONTAL, rotation_about_view, rotation_from_axis_angle
from fmlfast.template.face_template import FaceTemplate

START_FIELDS = 80  # smooth fields that landmarks may start from: more cost time and gain little
PLAIN_DEPTH_WIDTH = 2.2 * CROP_HALF_WIDTH  # mm that an unaligned crop spans at the face's usual depth


@dataclass(frozen=True)
class Observation:
    """What the network sees of F = B*M frames, and where its answers start from."""

    inputs: Tensor  # [B, M, 3, s, s] sRGB in [0, 1]
    mask: Tensor  # [B, M] bool
    side: Tensor | None  # [F, N] aligned landmarks, starting pose and shape
    shown: Tensor | None  # [F, N] 0 where a side feature is hidden, 1 else
    Ks: Tensor  # [F, 3, 3] px
    size: int  # px, side of the frames
    alignment: Alignment
    start: ShapeStart | None


class FML(nn.Module):
    """Frames in, codes out, and from codes the geometry and reflectance of the face (paper figure 2)."""

    code_mean: Tensor  # [K + Kr]
    code_factor: Tensor  # [K + Kr, K + Kr]
    mesh_edges: Tensor  # [N, 2] int64
    landmark_points: Tensor  # [66, 3] mm

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
            config.light_complement,
            config.residual_expressions,
        )
        self.num_expressions = len(self.template.expressions)
        codes = config.identity_dim + config.reflectance_dim
        if config.shape_init and not config.pose_init:
            raise ValueError("shape_init starts from the pose of pose_init; switch both on, or shape_init off")
        self.shape_fit, started = None, 0
        if config.shape_init:
            self.shape_fit = ShapeFit(self.template, min(START_FIELDS, len(self.face.smooth)))
            self.shape_fit.set_fields(self.face.smooth)
            started = self.shape_fit.count + self.num_expressions
        side = 2 * len(LANDMARKS_66) * config.landmark_input + 13 * config.pose_init + started
        of_frames = 33 + self.num_expressions + config.residual_expressions
        self.encoder = Encoder(config.input_size, config.channels, config.width, side, codes, of_frames)
        # Mean and square root of the covariance of codes over training subjects: the prior that refinement uses.
        self.register_buffer("code_mean", torch.zeros(codes))
        self.register_buffer("code_factor", torch.eye(codes))
        edges = unique_edges(self.template.triangles)
        # Skin is smooth, but what hangs behind the lips is no skin and must not lighten towards it.
        skin = (self.template.regions["mouth_bag"][edges] < 0.5).all(1)
        self.register_buffer("mesh_edges", edges[skin], persistent=False)
        points = self.template.landmarks(self.template.vertices)[list(LANDMARKS_66)]
        self.register_buffer("landmark_points", points, persistent=False)

    @property
    def backend(self) -> Backend | None:
        """Which kernels run: "torch", "triton", or None for the device's default. Not part of a checkpoint."""
        return self.face.backend

    @backend.setter
    def backend(self, backend: Backend | None) -> None:
        self.face.backend = backend

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Takes the template along to another device."""
        super()._apply(fn, recurse)
        self.template = self.face.template = self.template.to(self.code_mean.device)
        self.landmark_mesh = self.landmark_mesh.to(self.code_mean.device)
        return self

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Takes the smooth fields along to where landmarks are."""
        found = super().load_state_dict(state_dict, strict, assign)
        if self.shape_fit is not None:
            self.shape_fit.set_fields(self.face.smooth)
        return found

    def learn_shape_prior(self, people: Sequence[Sightings]) -> None:
        """Lets smooth fields vary as people do, and shape start from their usual expression; before any training.

        Raises ValueError where the config has no shape_init.
        """
        if self.shape_fit is None:
            raise ValueError("the shape prior is part of the shape's start; switch shape_init on")
        smooth, usual = learn_shape_prior(self.template, self.face.smooth, people)
        self.face.smooth.copy_(smooth)
        self.shape_fit.usual.copy_(usual)
        self.shape_fit.set_fields(smooth)

    @exact
    def encode(self, frames: Frames) -> Codes:
        """Codes of the subjects in `frames`."""
        codes = self.codes(self.observe(frames))
        return fitted_light(self, frames, codes) if self.config.light_fit else codes

    @exact
    @torch.no_grad()
    def observe(
        self,
        frames: Frames,
        noise: Tensor | None = None,  # [B, M, 68, 2] px
        keep: Tensor | None = None,  # [B, M, 68] bool
    ) -> Observation:
        """What the network sees of `frames`, which no learned number changes. In training `noise` moves the landmarks
        that it sees, and it sees those of `keep` only."""
        size = frames.images.shape[-1]
        seen = Sightings.of(frames, noise, keep)
        landmarks, Ks = seen.landmarks, seen.Ks
        alignment = align_to_front(landmarks, self.landmark_points)
        start = None
        if self.config.pose_init:
            start = ShapeStart(*fit_pose(landmarks, Ks, self.landmark_points))
            if self.shape_fit is not None:
                start = self.shape_fit(seen, start)
        side = self._side_features(landmarks, Ks, alignment, start)
        inputs = self._network_input(frames.images, alignment)
        shown = None
        if side is not None and keep is not None and self.config.landmark_input:
            used = constant(LANDMARKS_66, torch.int64, keep.device)
            points = keep[:, :, used].flatten(0, 1).float().repeat_interleave(2, 1)
            shown = F.pad(points, (0, side.shape[1] - points.shape[1]), value=1.0)
        return Observation(inputs, frames.mask, side, shown, Ks, size, alignment, start)

    @exact  # the network has an autocast of its own
    def codes(self, seen: Observation, encoder: nn.Module | None = None) -> Codes:
        """Codes from what the network sees; `encoder` may be a data-parallel wrapper of the model's."""
        codes, raw = (encoder or self.encoder)(seen.inputs, seen.mask, seen.side, seen.shown)
        return self._codes(codes, raw, seen.Ks, seen.size, seen.alignment, seen.start)

    def displacements(self, codes: Codes) -> Tensor:
        """Graph node displacements of identity, [B, G, 3] mm."""
        return self.face.displacements(codes.identity)

    def neutral(self, codes: Codes, template: FaceTemplate | None = None) -> Tensor:
        """Neutral geometry in the model frame, [B, V, 3] mm."""
        return self.face.neutral(self.displacements(codes), template)

    def geometry(self, codes: Codes, template: FaceTemplate | None = None) -> Tensor:
        """Geometry with expression in the model frame, [B, M, V, 3] mm."""
        residual = self.face.residual(codes.residual)
        return self.face.geometry(self.displacements(codes), codes.expression, template=template, residual=residual)

    def camera_vertices(self, codes: Codes, template: FaceTemplate | None = None) -> Tensor:
        """Geometry with expression in the camera frame, [B, M, V, 3] mm."""
        displacements, residual = self.displacements(codes), self.face.residual(codes.residual)
        pose = codes.rotation, codes.translation
        return self.face.geometry(displacements, codes.expression, *pose, template, residual)

    def reflectance(self, codes: Codes) -> Tensor:
        """Per-vertex reflectance, [B, V, 3] linear RGB."""
        return self.face.reflectance(codes.reflectance)

    def _network_input(self, images: Tensor, alignment: Alignment) -> Tensor:
        """[B, M, 3, S, S] -> [B, M, 3, s, s], cut out along the alignment if the config says so."""
        flat, size, target = images.flatten(0, 1), images.shape[-1], self.config.input_size
        if self.config.aligned_crop:
            theta = torch.cat([alignment.matrix * (2 / size), (alignment.offset * (2 / size) - 1)[..., None]], 2)
            grid = F.affine_grid(theta, [len(flat), 3, target, target], align_corners=False)
            flat = F.grid_sample(flat, grid, padding_mode="border", align_corners=False)
        elif size != target:
            flat = F.interpolate(flat, size=(target, target), mode="bilinear", antialias=True)
        return flat.unflatten(0, images.shape[:2])

    def _side_features(
        self, landmarks: Tensor, Ks: Tensor, alignment: Alignment, start: ShapeStart | None
    ) -> Tensor | None:
        """Aligned landmarks, the starting pose as the aligned crop shows it, and the starting shape, [F, N]."""
        parts = [alignment.to_crop(landmarks).flatten(1)] if self.config.landmark_input else []
        if start is not None:
            rotation, translation = start.rotation, start.translation
            unroll = rotation_about_view(-alignment.roll)
            scale = alignment.scale / Ks[:, 0, 0]  # rays in half a crop: how close the camera is
            center = to_rays(alignment.offset[:, None], Ks)[:, 0]
            shift = (translation[:, :2] / translation[:, 2:] - center) / scale[:, None]
            depth = torch.stack([translation[:, 2] * scale / CROP_HALF_WIDTH, scale * 4], 1).log()
            turned = (unroll @ rotation @ constant(FRONTAL, rotation.dtype, rotation.device)).flatten(1)
            parts.append(torch.cat([turned, (unroll[:, :2, :2] @ shift[..., None])[..., 0], depth], 1))
        if start is not None and start.smooth is not None and start.expression is not None:
            frames = len(landmarks) // len(start.smooth)
            parts += [start.smooth.repeat_interleave(frames, 0), start.expression]
        return torch.cat(parts, 1) if parts else None

    def _codes(
        self,
        codes: Tensor,
        raw: Tensor,
        Ks: Tensor,
        size: int,
        alignment: Alignment,
        start: ShapeStart | None,
    ) -> Codes:
        flat = raw.flatten(0, 1)
        turn, shift, light, delta, epsilon = flat.split(
            [3, 3, 27, self.num_expressions, self.config.residual_expressions], 1
        )
        residual = rotation_from_axis_angle(0.5 * turn)
        frontal = constant(FRONTAL, flat.dtype, flat.device)
        focal = torch.stack([Ks[:, 0, 0], Ks[:, 1, 1]], 1)
        roll = rotation_about_view(alignment.roll)
        if start is not None:
            rotation, place = start.rotation, start.translation
            depth = place[:, 2] * torch.exp(0.1 * shift[:, 2])
            center, scale = place[:, :2] / place[:, 2:], 20.0 / place[:, 2:]
        elif self.config.aligned_crop:
            rotation = roll @ frontal
            depth = CROP_HALF_WIDTH * focal[:, 0] / alignment.scale * torch.exp(0.2 * shift[:, 2])
            center, scale = to_rays(alignment.offset[:, None], Ks)[:, 0], 20.0 / depth[:, None]
        else:
            roll, rotation = torch.eye(3, device=flat.device).expand_as(residual), frontal
            depth = PLAIN_DEPTH_WIDTH * focal[:, 0] / size * torch.exp(0.2 * shift[:, 2])
            center, scale = (size / 2 - Ks[:, :2, 2]) / focal, 20.0 / depth[:, None]
        rotation = roll @ residual @ roll.transpose(1, 2) @ rotation
        ray = center + (roll[:, :2, :2] @ shift[:, :2, None])[..., 0] * scale
        translation = torch.cat([ray, torch.ones_like(ray[:, :1])], 1) * depth[:, None]
        sh = light.unflatten(1, (9, 3)) + torch.eye(9, 1, device=flat.device) * 0.75
        alpha, beta = codes.split([self.config.identity_dim, self.config.reflectance_dim], 1)
        began = None if start is None else start.expression
        if self.config.signed_expressions:
            delta = 0.3 * delta if began is None else began + 0.3 * delta
        elif began is None:
            # Small at the start and never dead: an expression begins near 0.03 with a slope of 0.08.
            delta = F.softplus(3 * delta - 2.5) / 3
        else:
            delta = F.softplus(10 * began - 2.5 + delta) / 10  # the same of what it starts from, where it is large
        if start is not None and start.smooth is not None:
            alpha = torch.cat([alpha, start.smooth], 1)
        shape = raw.shape[:2]
        return Codes(
            identity=alpha,
            reflectance=beta,
            rotation=rotation.unflatten(0, shape),
            translation=translation.unflatten(0, shape),
            sh=sh.unflatten(0, shape),
            expression=delta.unflatten(0, shape),
            residual=epsilon.unflatten(0, shape),
        )

    def save(self, folder: str | Path, **extra: Any) -> None:
        """Writes model.safetensors and config.json, each whole or not at all; `extra` joins the config."""
        folder = Path(folder)
        config = {
            "model": asdict(self.config),
            "template": {"name": self.template.name, "fingerprint": self.template.fingerprint},
            **extra,
        }
        with atomic_path(folder / "config.json") as path:
            path.write_text(json.dumps(config, indent=2, default=str) + "\n")
        tensors = {name: tensor.contiguous().cpu() for name, tensor in self.state_dict().items()}
        with atomic_path(folder / "model.safetensors") as path:
            save_file(tensors, path)

    @classmethod
    def load(cls, folder: str | Path, device: torch.device | str = "cpu") -> "FML":
        """The model of a run folder, in evaluation mode.

        Raises ValueError where the folder is no run, is damaged, or was trained on another template.
        """
        folder = Path(folder)
        for name in ("config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise ValueError(f"{folder} is not a finished run: {name} is missing; train with train.py first")
        try:
            stored = json.loads((folder / "config.json").read_text())
            fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored["model"].items()}
            config, fingerprint = ModelConfig(**fields), stored["template"]["fingerprint"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{folder / 'config.json'} cannot be read ({error}); copy it anew") from error
        template = load_template(config)
        if template.fingerprint != fingerprint:
            raise ValueError(
                f"{folder} was trained on template {stored['template']['name']} ({fingerprint}), but "
                f"{template.name} ({template.fingerprint}) is installed; use the release that trained it"
            )
        model = cls(config, template)
        try:
            model.load_state_dict(load_file(folder / "model.safetensors"))
        except (SafetensorError, RuntimeError) as error:
            raise ValueError(f"{folder / 'model.safetensors'} does not hold this model: {error}") from error
        return model.eval().to(device)
