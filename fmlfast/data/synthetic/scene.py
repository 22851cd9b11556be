"""Renders a clip of one synthetic person, with its ground truth."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate, normalize

from fmlfast.camera import project
from fmlfast.color import linear_to_srgb
from fmlfast.data.crop import Crop, K_to_crop, crop_to_source, face_crop, points_to_crop
from fmlfast.data.mediapipe478 import NUM_POINTS, NUM_SCORES, SCORE_OF
from fmlfast.data.shards import Clip
from fmlfast.data.synthetic import hair, props
from fmlfast.data.synthetic import head as heads
from fmlfast.data.synthetic.ambient_occlusion import ambient_occlusion, ever_visible
from fmlfast.data.synthetic.background import blur, random_backdrop, sensor_noise
from fmlfast.data.synthetic.mesh_parts import Carrier, Part
from fmlfast.data.synthetic.motion import HeadMotion, random_head_motion, rotation_from_angles
from fmlfast.data.synthetic.people import PeopleSampler, Person
from fmlfast.data.synthetic.population import Population
from fmlfast.data.synthetic.random_light import LUMINANCE, random_light
from fmlfast.data.synthetic.skin import FaceAppearance, Look
from fmlfast.ibug68 import NUM_JAW
from fmlfast.kernels.common.topology import mesh_edges
from fmlfast.renderer import render, shade_sh, vertex_normals
from fmlfast.template.face_template import FaceTemplate

Array = NDArray[np.floating]

_SOURCE_SIDE = 400.0  # pixels of the imagined source video that a crop spans
_CROP_MM = 235.0  # what a crop spans at the distance of the face
_INNER_NOISE, _JAW_NOISE, _COMMON_NOISE = 0.015, 0.03, 0.007  # of a detector, shares of the outer-eye distance
_BEHIND = 12.0  # mm that a landmark must lie behind what the camera sees to count as hidden
_PIVOT = np.array([0.0, -110.0, -92.0])  # where head and shoulders turn against each other


@dataclass(frozen=True)
class LabelledClip:
    """A clip and its ground truth, arrays by name."""

    clip: Clip
    truth: dict[str, NDArray[np.float32]]


class SceneGenerator:
    """Renders clips of synthetic people; data that depend on the template alone are computed once."""

    def __init__(self, level: int, size: int, supersample: float) -> None:
        """Prepares the template's data.

        level: of the template's mesh. size: side of the crops, pixels. supersample: samples per pixel and axis.
        """
        self.template = FaceTemplate.default(level)
        base = FaceTemplate.default(0)
        self.size, self.supersample = size, supersample
        self._detail = 2 if level > 1 else 1
        self._people = PeopleSampler()
        self._plain = np.flatnonzero(base.regions["face"].numpy() > 0.9)
        self._marks = base.landmarks(base.vertices).numpy()  # [68, 3] of the mean face
        normals = vertex_normals(base.vertices[None], base.triangles)[0].numpy()
        self._head = heads.make_head(base.vertices.numpy(), normals, _outer_edge(base), self._detail)
        seen = ever_visible(base, self._head.vertices, self._head.triangles)
        shadow = ambient_occlusion(base, self._head.vertices, self._head.triangles)
        self._head = replace(self._head, triangles=self._head.triangles[seen])
        occlusion = self.template.subdivide(shadow[:, None])[:, 0]
        self._appearance = FaceAppearance(self.template, occlusion.numpy())
        fixed = (base.regions["eyes"] + base.regions["mouth_bag"]).numpy() < 0.5
        self._carrier = Carrier(base.vertices.numpy(), fixed)
        self._gloss = self._gloss_map()

    def render_clip(
        self, rng: np.random.Generator, key: str, frames: int, population: Population | None = None
    ) -> LabelledClip:
        """Draws person, appearance, light and motion from `rng`, and renders `frames` frames.

        People are MakeHuman's, or of another `population`.
        """
        person = population.sample(rng, self._people) if population else self._people.sample(rng)
        motion = random_head_motion(rng, frames, self.template.expression_names)
        look = self._appearance.sample(rng, person)
        parts = self._build_scene(rng, person, look, frames)
        luminance = float(look.skin @ LUMINANCE)
        sh = random_light(rng, exposure=1.2 * np.exp(rng.normal(0.0, 0.22)) * (luminance / 0.25) ** -0.45)
        rotation, translation, K = self._place(rng, motion)

        neutral = torch.from_numpy(person.vertices)  # [V0, 3]
        expression = torch.from_numpy(motion.expression)  # [M, E]
        shapes = self.template.subdivide(neutral) + torch.einsum("me,evc->mvc", expression, self.template.expressions)
        turn = torch.from_numpy(rotation.astype(np.float32))
        shift = torch.from_numpy(translation.astype(np.float32))
        face = torch.einsum("mij,mvj->mvi", turn, shapes) + shift[:, None]  # [M, V, 3] camera space

        marks, marks_uv = self._landmarks(face, K)
        noisy, crops = self._detect(rng, marks, marks_uv, float(K[0, 0]))
        Ks = torch.from_numpy(np.stack([K_to_crop(K, crop, self.size) for crop in crops]))
        others = self._carry(parts, person, motion, rotation, translation)
        images, depth = self._render(rng, face, others, parts, look, sh, Ks, motion)

        in_crop = np.stack([points_to_crop(points, crop, self.size) for points, crop in zip(noisy, crops, strict=True)])
        exact = project(marks, Ks).numpy()
        surface = project(self.template.surface_points(face, torch.arange(NUM_POINTS)), Ks).numpy()
        confidence = self._confidence(marks, exact, depth, motion)
        clip = Clip(
            key=key,
            subject=key,
            source=f"synthetic/{population.name}/{key}" if population else f"synthetic/{key}",
            images=images,
            landmarks=in_crop.astype(np.float32),
            confidence=confidence,
            Ks=Ks.numpy(),
            crop_to_source=np.stack([crop_to_source(crop, self.size) for crop in crops]),
            times=motion.times,
            surface_labels=surface,
            expression_labels=self._in_score_order(motion.expression),
        )
        truth = {
            "vertices": person.vertices,
            "expression": motion.expression,
            "rotation": turn.numpy(),
            "translation": shift.numpy(),
            "sh": np.repeat(sh[None], frames, axis=0),
            "landmarks": exact,
            "reflectance": look.colors[: len(person.vertices)],
        }
        return LabelledClip(clip, truth)

    def _in_score_order(self, expression: NDArray[np.float32]) -> NDArray[np.float32]:
        """Sorts expressions [M, E] as the detector's scores are, [M, 52]; those without a score are left out."""
        labels = np.zeros((len(expression), NUM_SCORES), np.float32)
        for name, values in zip(self.template.expression_names, expression.T, strict=True):
            if name in SCORE_OF:
                labels[:, SCORE_OF[name]] = values
        return labels

    def _place(self, rng: np.random.Generator, motion: HeadMotion) -> tuple[Array, Array, Array]:
        """Draws rotations [M, 3, 3], translations [M, 3] mm and K [3, 3] of an imaginary source video."""
        relative = np.exp(rng.uniform(np.log(1.2), np.log(8.0)))  # focal length over crop width: .3 to 1.9 m away
        depth = relative * _CROP_MM * (1.0 + rng.uniform(0.0, 0.06) * motion.drift[:, 2])
        middle = np.clip(rng.normal(0.0, [0.28, 0.16]), -0.6, 0.6)  # of the face off the principal point, crop widths
        wander = middle + rng.uniform(0.0, 0.12, 2) * motion.drift[:, :2]
        translation = np.concatenate([wander / relative * depth[:, None], depth[:, None]], axis=1)
        focal = relative * _SOURCE_SIDE
        K = np.array([[focal, 0.0, 640.0], [0.0, focal, 360.0], [0.0, 0.0, 1.0]])
        return rotation_from_angles(motion.angles), translation, K

    def _build_scene(self, rng: np.random.Generator, person: Person, look: Look, frames: int) -> list[Part]:
        """Draws all parts of the scene but the face, placed around the mean face."""
        age = (person.age - 20.0) / 55.0
        style = hair.random_style(rng, age, person.gender > 0.5)
        parts = [
            self._head.part(look.colors, look.colors[self._plain].mean(axis=0), bald=style is None),
            heads.clothes(rng, self._detail),
            props.teeth(self._marks),
        ]
        if style is not None:
            parts.append(hair.hair(rng, style, look.hair, look.skin, self._detail))
        if rng.random() < 0.08 + 0.15 * age:
            parts += props.glasses(rng, self._marks)
        if rng.random() < 0.12:
            present = np.zeros(frames, bool)
            start = rng.integers(frames)
            present[start : start + rng.integers(1, frames + 1)] = True
            make = props.hand if rng.random() < 0.6 else props.microphone
            parts += make(rng, look.skin, present)
        return parts

    def _carry(
        self, parts: list[Part], person: Person, motion: HeadMotion, rotation: Array, translation: Array
    ) -> torch.Tensor:
        """Warps the parts to the person and poses them, [M, N, 3] in camera space; shoulders turn less."""
        points = self._carrier.carry(np.concatenate([part.vertices for part in parts]), person.vertices)
        share = np.concatenate([part.body for part in parts])[:, None]
        angles = 0.85 * motion.angles.mean(axis=0) * [0.55, 0.2, 0.15]
        trunk = rotation_from_angles(angles)
        anchor = rotation @ _PIVOT + translation  # [M, 3]
        with_head = np.einsum("mij,nj->mni", rotation, points) + translation[:, None]
        with_body = ((points - _PIVOT) @ trunk.T)[None] + anchor[:, None]
        placed = with_head + share * (with_body - with_head)
        start = 0
        for part in parts:
            stop = start + len(part.vertices)
            if part.present is not None:
                placed[~part.present, start:stop] = np.nan  # the rasteriser leaves non-finite triangles out
            start = stop
        return torch.from_numpy(placed.astype(np.float32))

    def _landmarks(self, face: torch.Tensor, K: Array) -> tuple[torch.Tensor, Array]:
        """Computes landmarks in camera space [M, 68, 3] and the source image [M, 68, 2], jaw on the silhouette."""
        Ks = torch.from_numpy(K.astype(np.float32)).expand(len(face), 3, 3)
        marks = self.template.slide_landmarks(face, Ks)
        return marks, project(marks, Ks).numpy()

    def _detect(
        self, rng: np.random.Generator, marks: torch.Tensor, uv: Array, focal: float
    ) -> tuple[Array, list[Crop]]:
        """Adds a detector's noise to landmarks [M, 68, 2], source pixels, and derives the crops from them."""
        frames = len(uv)
        span = (marks[:, 36] - marks[:, 45]).norm(dim=1) * focal / marks[:, 36:48, 2].mean(dim=1)
        eyes = span.numpy()[:, None, None]  # outer-eye distance as if seen from the front, px
        spread = np.full((68, 1), _INNER_NOISE)
        spread[:NUM_JAW] = _JAW_NOISE
        middle = uv.mean(axis=1, keepdims=True)
        noise = spread * rng.standard_normal(uv.shape) + _COMMON_NOISE * rng.standard_normal((frames, 1, 2))
        stretch = 1.0 + _COMMON_NOISE * rng.standard_normal((frames, 1, 1))
        noisy = middle + stretch * (uv - middle) + eyes * noise
        crops = []
        zoom = rng.uniform(0.94, 1.08)
        for points in noisy:
            x0, y0, side = face_crop(points)
            grown = side * zoom * rng.uniform(0.985, 1.015)
            shift = rng.normal(0.0, 0.012, 2) * side - (grown - side) / 2
            crops.append(Crop(x0 + shift[0], y0 + shift[1], grown))
        return noisy, crops

    def _render(
        self,
        rng: np.random.Generator,
        face: torch.Tensor,  # [M, V, 3]
        others: torch.Tensor,  # [M, N, 3]
        parts: list[Part],
        look: Look,
        sh: Array,  # [9, 3]
        Ks: torch.Tensor,  # [M, 3, 3]
        motion: HeadMotion,
    ) -> tuple[NDArray[np.uint8], Array]:
        """Renders sRGB images [M, S, S, 3], and depth [M, D, D] at the supersampled resolution."""
        frames, size = len(face), self.size
        vertices = torch.cat([face, others], dim=1)
        starts = np.cumsum([face.shape[1], *(len(part.vertices) for part in parts)])
        meshes = [torch.from_numpy(part.triangles) + int(start) for part, start in zip(parts, starts, strict=False)]
        faces = torch.cat([self.template.triangles, *meshes])
        normals = vertex_normals(vertices, faces)
        facing = ~((normals * vertices).sum(dim=-1) > 0).all(dim=0)  # [V + N] towards the camera in some frame
        for part, start in zip(parts, starts, strict=False):
            if part.sheet:
                facing[start : start + len(part.vertices)] = True
        faces = faces[facing[faces.long()].any(dim=1)]  # skips triangles that are back faces in all frames
        colors = torch.from_numpy(np.concatenate([look.colors, *(part.colors for part in parts)]).astype(np.float32))
        light = torch.from_numpy(sh).expand(frames, 9, 3)
        shaded = shade_sh(colors[None], normals, light)
        shaded[:, : face.shape[1]] += self._shine(face, normals[:, : face.shape[1]], sh, rng.uniform(0.0, 1.0))
        side = round(size * self.supersample)
        finer = Ks * torch.tensor([side / size, side / size, 1.0])[:, None]
        cameras = torch.eye(4).expand(frames, 4, 4)
        picture = render(vertices, faces, shaded, cameras, finer, side, side, antialiased=False)
        layers = torch.cat([picture.image, picture.mask[..., None]], dim=-1).movedim(-1, 1)
        if side != size:
            layers = interpolate(layers, size=(size, size), mode="bilinear", antialias=True)
        drawn = layers.movedim(1, -1).numpy()
        canvas = random_backdrop(rng, size + size // 2) * rng.uniform(0.5, 1.2)
        views = []
        for x, y in np.clip(size // 4 * (1.0 + motion.drift[:, :2]), 0, size // 2).astype(int):
            views.append(canvas[y : y + size, x : x + size])
        image = drawn[..., :3] + (1.0 - drawn[..., 3:]) * np.stack(views)
        if rng.random() < 0.5:
            image = blur(image, rng.uniform(0.35, 0.75) * size / 128)
        image = sensor_noise(rng, image, rng.uniform(0.05, 1.0) ** 2)
        encoded = linear_to_srgb(torch.from_numpy(image)) * 255.0
        return encoded.round().to(torch.uint8).numpy(), picture.depth.numpy()

    def _gloss_map(self) -> torch.Tensor:
        """Computes the specular strength [V, 1] of skin and lips, largest in the middle of the face."""
        region = self.template.regions
        middle = torch.exp(-((self.template.vertices[:, 0] / 28.0) ** 2))
        return ((region["skin"] * (0.4 + 0.6 * middle) + 0.8 * region["lips"]) * 0.1)[:, None]

    def _shine(self, face: torch.Tensor, normals: torch.Tensor, sh: Array, oil: float) -> torch.Tensor:
        """Computes Blinn-Phong highlights [M, V, 1] of the light's main direction, on eyes and skin."""
        ahead = torch.from_numpy(sh[1:4] @ LUMINANCE.astype(np.float32))
        strength = float(ahead.norm()) + 1e-6
        half = normalize(ahead / strength - normalize(face, dim=-1), dim=-1)
        cosine = (normals * half).sum(dim=-1, keepdim=True).clamp(min=0.0)  # [M, V, 1]
        eyes = self.template.regions["eyes"][:, None]
        return strength * (oil * self._gloss * cosine**12 + 0.08 * eyes * cosine**60)

    def _confidence(self, marks: torch.Tensor, uv: Array, depth: Array, motion: HeadMotion) -> Array:
        """Computes confidence [M, 68]: 1 for inner points, less for the jaw, a third of that for hidden points."""
        confidence = np.ones(uv.shape[:2], np.float32)
        away = np.linspace(-1.0, 1.0, NUM_JAW)[None] * np.sin(np.radians(motion.angles[:, :1]))  # > 0: turned away
        confidence[:, :NUM_JAW] = np.clip(0.6 - 0.8 * away, 0.2, 0.6)
        side = depth.shape[1]
        column, row = np.clip((uv * side / self.size).astype(int), 0, side - 1).transpose(2, 0, 1)
        seen = depth[np.arange(len(uv))[:, None], row, column]
        hidden = marks[..., 2].numpy() - seen > _BEHIND
        return np.where(hidden, confidence / 3.0, confidence).astype(np.float32)


def _outer_edge(template: FaceTemplate) -> NDArray[np.bool_]:
    """Finds the vertices [V] on the mesh's outer rim: over the forehead, behind the ears, around the neck."""
    edges = mesh_edges(template.triangles)
    rim = torch.zeros(len(template.vertices), dtype=torch.bool)
    rim[edges.ends[edges.triangles == 1].flatten()] = True
    rim &= (template.regions["eyes"] + template.regions["mouth_bag"] + template.regions["lips"]) < 0.5
    return rim.numpy()
