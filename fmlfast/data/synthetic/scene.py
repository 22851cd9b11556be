"""Renders a clip of one synthetic person, with its ground truth."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from fmlfast.camera import project
from fmlfast.data.crop import Crop, K_to_crop, crop_to_source, face_crop, points_to_crop
from fmlfast.data.mediapipe478 import NUM_POINTS, NUM_SCORES, SCORE_OF
from fmlfast.data.shards import Clip
from fmlfast.data.surface_cells import surface_cells
from fmlfast.data.synthetic import eyewear, hair, props
from fmlfast.data.synthetic import head as heads
from fmlfast.data.synthetic.ambient_occlusion import ambient_occlusion, ever_visible
from fmlfast.data.synthetic.clip_renderer import ClipRenderer, Scene
from fmlfast.data.synthetic.eyewear import Lenses
from fmlfast.data.synthetic.mesh_parts import Carrier, Part
from fmlfast.data.synthetic.motion import HeadMotion, random_head_motion, rotation_from_angles
from fmlfast.data.synthetic.people import PeopleSampler, Person
from fmlfast.data.synthetic.population import Population
from fmlfast.data.synthetic.random_light import random_light
from fmlfast.data.synthetic.skin import FaceAppearance, Look
from fmlfast.ibug68 import NUM_JAW
from fmlfast.kernels.common.topology import mesh_edges
from fmlfast.renderer import vertex_normals
from fmlfast.template.face_template import FaceTemplate

Array = NDArray[np.floating]

_SOURCE_SIDE = 400.0  # pixels of the imagined source video that a crop spans
_CROP_MM = 235.0  # what a crop spans at the distance of the face
_INNER_NOISE, _JAW_NOISE, _COMMON_NOISE = 0.015, 0.03, 0.007  # of a detector, shares of the outer-eye distance
_BEHIND = 12.0  # mm that a landmark must lie behind what the camera sees to count as hidden
_OPEN_MOUTH = {
    "jawOpen": 0.4,
    "mouthUpperUpLeft": 0.6,
    "mouthUpperUpRight": 0.6,
    "mouthSmileLeft": 0.5,
    "mouthSmileRight": 0.5,
}
_ENAMEL = 0.65  # share of the light among teeth and lips that is not lost at each bounce
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
        self.size = size
        self._detail = 2 if level > 1 else 1
        self._cells = surface_cells(base).numpy()
        self._people = PeopleSampler()
        self._plain = np.flatnonzero(base.regions["face"].numpy() > 0.9)
        self._marks = base.landmarks(base.vertices).numpy()  # [68, 3] of the mean face
        normals = vertex_normals(base.vertices[None], base.triangles)[0].numpy()
        outer = (~base.mouth_and_lashes).nonzero()[:, 0].numpy()
        points, edge = base.vertices.numpy(), _outer_edge(base)
        self._head = heads.make_head(points[outer], normals[outer], edge[outer], self._detail)
        self._head = replace(self._head, nearest=outer[self._head.nearest])
        seen = ever_visible(base, self._head.vertices, self._head.triangles)
        shadow = _occlusion(base, self._head)
        self._head = replace(self._head, triangles=self._head.triangles[seen])
        self._occlusion = self.template.subdivide(shadow[:, None])[:, 0]
        self._appearance = FaceAppearance(self.template, texel=0.5 if size > 160 else 1.0)
        places = self._appearance.detail.coordinates
        self._renderer = ClipRenderer(self.template, size, supersample, places, self._occlusion)
        self._carrier = Carrier(base.vertices.numpy(), base.regions["skin"].numpy() > 0.5)

    def render_clip(
        self,
        rng: np.random.Generator,
        key: str,
        frames: int,
        population: Population | None = None,
        motion: HeadMotion | None = None,
        crop: Crop | None = None,
    ) -> LabelledClip:
        """Draws person, appearance, light and motion from `rng`, and renders `frames` frames.

        People are MakeHuman's, or of another `population`. A given `motion` replaces the random one; a given `crop` of
        the imagined video replaces those around the landmarks.
        """
        person = population.sample(rng, self._people) if population else self._people.sample(rng)
        motion = motion or random_head_motion(rng, frames, self.template.expression_names)
        look = self._appearance.sample(rng, person)
        parts, lenses = self._build_scene(rng, person, look, frames)
        light = random_light(rng)
        rotation, translation, K = self._place(rng, motion)

        neutral = torch.from_numpy(person.vertices)  # [V0, 3]
        expression = torch.from_numpy(motion.expression)  # [M, E]
        shapes = self.template.subdivide(neutral) + torch.einsum("me,evc->mvc", expression, self.template.expressions)
        turn = torch.from_numpy(rotation.astype(np.float32))
        shift = torch.from_numpy(translation.astype(np.float32))
        face = torch.einsum("mij,mvj->mvi", turn, shapes) + shift[:, None]  # [M, V, 3] camera space

        marks, marks_uv = self._landmarks(face, K)
        noisy, crops = self._detect(rng, marks, marks_uv, float(K[0, 0]))
        crops = [crop] * frames if crop else crops
        Ks = torch.from_numpy(np.stack([K_to_crop(K, crop, self.size) for crop in crops]))
        others = self._carry(parts, person, motion, rotation, translation)
        glass = (lenses, self._carry([lenses.part], person, motion, rotation, translation)) if lenses else None
        scene = Scene(face, others, parts, glass, look, light, motion.drift)
        exposure = self._renderer.draw(rng, scene, Ks)

        in_crop = np.stack([points_to_crop(points, crop, self.size) for points, crop in zip(noisy, crops, strict=True)])
        exact = project(marks, Ks).numpy()
        surface = project(self.template.surface_points(face, torch.arange(NUM_POINTS)), Ks).numpy()
        confidence = self._confidence(marks, exact, exposure.depth, motion)
        reflectance = look.colors[: len(person.vertices)]
        clip = Clip(
            key=key,
            subject=key,
            source=f"synthetic/{population.name}/{key}" if population else f"synthetic/{key}",
            images=exposure.images,
            landmarks=in_crop.astype(np.float32),
            confidence=confidence,
            Ks=Ks.numpy(),
            crop_to_source=np.stack([crop_to_source(crop, self.size) for crop in crops]),
            times=motion.times,
            surface_labels=surface,
            expression_labels=self._in_score_order(motion.expression),
            color_labels=np.repeat(self._cells[None] @ reflectance, frames, 0),
        )
        truth = {
            "vertices": person.vertices,
            "expression": motion.expression,
            "rotation": turn.numpy(),
            "translation": shift.numpy(),
            "sh": (light.sh * exposure.gains[:, None]).astype(np.float32),  # [M, 9, 3]
            "landmarks": exact,
            "reflectance": reflectance,
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

    def _build_scene(
        self, rng: np.random.Generator, person: Person, look: Look, frames: int
    ) -> tuple[list[Part], Lenses | None]:
        """Draws all parts of the scene but the face, and lenses of glasses, placed around the mean face."""
        age = (person.age - 20.0) / 55.0
        style = hair.random_style(rng, age, person.gender > 0.5)
        parts = [
            self._head.part(look.colors, self._occlusion.numpy(), look.colors[self._plain].mean(axis=0), style is None),
            heads.clothes(rng, self._detail),
        ]
        if style is not None:
            parts.append(hair.hair(rng, style, look.hair, look.skin, self._detail))
        lenses = None
        if rng.random() < 0.10 + 0.15 * age:
            frame, lenses = eyewear.glasses(rng, self._marks)
            parts += frame
        if rng.random() < 0.12:
            present = np.zeros(frames, bool)
            start = rng.integers(frames)
            present[start : start + rng.integers(1, frames + 1)] = True
            make = props.hand if rng.random() < 0.6 else props.microphone
            parts += make(rng, look.skin, present)
        return parts, lenses

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
    rim &= ~template.mouth_and_lashes & (template.regions["eyes"] + template.regions["lips"] < 0.5)
    return rim.numpy()


def _occlusion(base: FaceTemplate, head: heads.Head) -> torch.Tensor:
    """Computes the share of the sky [V] that the mean face's vertices see, those of the mouth when it is open."""
    regions = base.regions
    opened = torch.einsum("e,evc->vc", _weights(base), base.expressions)
    closed, wide = (
        ambient_occlusion(replace(base, vertices=base.vertices + moved), head.vertices, head.triangles)
        for moved in (0.0 * opened, opened)
    )
    wide = torch.where(regions["teeth"] > 0.5, wide / (1.0 - _ENAMEL * (1.0 - wide)), wide)  # the sum of all bounces
    return torch.where(regions["mouth_bag"] + regions["teeth"] + regions["tongue"] > 0.5, wide, closed)


def _weights(base: FaceTemplate) -> torch.Tensor:
    return torch.tensor([_OPEN_MOUTH.get(name, 0.0) for name in base.expression_names])
