"""Tracks videos of synthetic people whose motion is known, by the real face detector: jitter, lag, expressions, depth.

python -m benchmarks.paper.track_motion --out FOLDER: renders videos, tracks them, writes FOLDER/track_motion.json

Each video of six seconds, 30 frames a second, 480 x 480 pixels: a still head (with a blink and a glance), then shakes
of 25 degrees at 1.5 Hz while it talks and lifts its brows, then a smile and speech. Errors are of the 51 inner
landmarks in % of the outer-eye distance, against the renderer's; jitter is the root mean square of their change from
frame to frame where the head is still.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor

from fmlfast.camera import project
from fmlfast.common.atomic import atomic_path
from fmlfast.data.crop import Crop, assumed_K
from fmlfast.data.face_detector import FaceDetector
from fmlfast.data.mediapipe478 import NUM_POINTS, TO_IBUG68
from fmlfast.data.shards import Clip
from fmlfast.data.synthetic.motion import HeadMotion
from fmlfast.data.synthetic.population import Population
from fmlfast.data.synthetic.scene import SceneGenerator
from fmlfast.data.video.decode import Video
from fmlfast.data.video.encode import VideoPiece
from fmlfast.ibug68 import NUM_JAW, OUTER_EYES
from fmlfast.reconstruction.track.observe import observe_video, read_sights
from fmlfast.reconstruction.track.run import track
from fmlfast.reconstruction.track.tracked import TrackedPerson
from fmlfast.rotation import axis_angle_from_rotation
from fmlfast.template.face_template import FaceTemplate

RATE, SECONDS, SIZE, CHUNK = 30, 6.0, 480, 30  # frames a second; px; frames that are rendered at once
OBSERVED = 128  # px, of the crops in which the detector's points are compared
ROOM = 1.7  # side of the picture over that of a face's crop
BLINKS, GLANCE, FAST, BROWS = (1.0, 2.6, 4.2, 5.4), (0.3, 0.86), (2.0, 4.0), (3.0, 3.75)  # seconds
STILL = [frame for frame in range(57) if not 8 <= frame <= 35]  # no blink, no glance
SHIFTS = np.arange(-2, 2.01, 0.05)  # frames


@dataclass(frozen=True)
class Motion:
    """How well a video was tracked; landmarks in % of the outer-eye distance."""

    jitter: float
    jitter_detector: float
    """Of MediaPipe's own points."""
    jitter_network: float
    """Of the landmark network's."""
    error: float
    error_network: float
    lag: float
    """Frames that the turn of the head is late in fast motion."""
    turn: float
    """Its amplitude over the true one."""
    blink: float
    """Mean eyeBlink where it is truly 1."""
    expression: float
    """Mean absolute error where the truth is above .1."""
    depth_jump: float
    """Mean error of the depth's change from frame to frame, per mille of the depth."""
    frames_a_second: float


def script(frames: NDArray[np.int64], names: tuple[str, ...], pose: NDArray[np.floating]) -> HeadMotion:
    """Writes the motion of these frames; pose: yaw, pitch, roll where the head is still, degrees."""
    t = frames / RATE
    angles, expression = np.tile(pose, (len(t), 1)), np.zeros((len(t), len(names)))
    fast = _rise(t, FAST[0], 0.2) * (1 - _rise(t, FAST[1] - 0.2, 0.2))
    swing = np.array([25 * np.sin(3 * np.pi * (t - 2)), 8 * np.sin(2.2 * np.pi * (t - 2)), 5 * np.sin(1.4 * np.pi * t)])
    angles += (fast * swing).T
    smile, talk = _rise(t, 4.0, 0.3) * (1 - _rise(t, 5.0, 0.3)), _rise(t, 4.4, 0.2)
    speech = 0.4 * talk * np.sin(6 * np.pi * t).clip(0) + 0.25 * fast * np.sin(4 * np.pi * t).clip(0)
    blink = np.max([1 - np.abs(t - at) / 0.1 for at in BLINKS], 0).clip(0)
    glance = 0.5 * (_rise(t, GLANCE[0], 0.06) - _rise(t, GLANCE[1] - 0.06, 0.06))
    brows = 0.7 * _rise(t, BROWS[0], 0.15) * (1 - _rise(t, BROWS[1] - 0.15, 0.15))
    shown = {"jawOpen": speech, "eyeLookOutLeft": glance, "eyeLookInRight": glance, "browInnerUp": brows}
    for side in ("Left", "Right"):
        shown |= {f"mouthSmile{side}": 0.8 * smile, f"eyeBlink{side}": blink, f"browOuterUp{side}": brows}
    for name, values in shown.items():
        expression[:, names.index(name)] = values
    drift = np.stack([0.6 * fast * np.sin(1.8 * np.pi * t), np.zeros_like(t), 0.5 * fast * np.sin(np.pi * t)], 1)
    return HeadMotion(t.astype(np.float32), expression.astype(np.float32), angles, drift)


def render_video(generator: SceneGenerator, path: Path, seed: int, population: Population | None) -> dict[str, Tensor]:
    """Renders a person's video, and returns the truth of its frames."""
    names = generator.template.expression_names
    pose = np.random.default_rng(seed).normal(0, [8.0, 4.0, 3.0])

    def shot(first: int, count: int, crop: Crop | None) -> tuple[Clip, dict[str, NDArray[np.float32]]]:
        motion = script(np.arange(first, first + count), names, pose)
        found = generator.render_clip(np.random.default_rng(seed), "video", count, population, motion, crop)
        return found.clip, found.truth

    around = shot(0, 1, None)[0].crop_to_source[0]
    side = float(around[0, 0]) * SIZE
    left, top = (around[:, 2] - (ROOM - 1) / 2 * side).tolist()
    crop = Crop(left, top, ROOM * side)
    truth: dict[str, list[NDArray[np.float32]]] = {}
    with VideoPiece(path, Fraction(RATE)) as video:
        for first in range(0, round(SECONDS * RATE), CHUNK):
            clip, told = shot(first, CHUNK, crop)
            for number, image in enumerate(clip.images):
                video.add(image, (first + number) / RATE)
            for name, values in (told | {"Ks": clip.Ks}).items():
                truth.setdefault(name, []).append(values)
    once = {"vertices", "reflectance"}
    return {n: torch.from_numpy(v[0] if n in once else np.concatenate(v)) for n, v in truth.items()}


def observe(video: Path, folder: Path, width: int, height: int) -> tuple[list[Clip], list[int]]:
    """Detects the first face in all frames, as the first pass of tracking does; in parts, with the frames' numbers."""
    K = assumed_K(width, height)
    with FaceDetector() as detector:
        segments = list(observe_video(Video(video), folder, K, OBSERVED, detector, None, lambda _: None))
    seen = [segment for segment in segments if 0 in segment.tracks]
    numbers = [sight.frame for segment in seen for sight in segment.tracks[0]]
    return [read_sights(folder, segment, 0) for segment in seen], numbers


def detected_landmarks(clips: Sequence[Clip]) -> tuple[Tensor, Tensor]:  # [T, 68, 2] px of the video
    """Returns MediaPipe's own points and the landmark network's in successive clips."""
    parts: list[tuple[Tensor, Tensor]] = []
    for clip in clips:
        assert clip.detection is not None
        scale, offset = clip.crop_to_source[:, 0, 0, None, None], clip.crop_to_source[:, None, :, 2]
        own = np.einsum("kp,tpc->tkc", TO_IBUG68, clip.detection.points * scale + offset)
        network = clip.detection.surface[:, NUM_POINTS:] * scale + offset
        parts.append((torch.from_numpy(own).float(), torch.from_numpy(network)))
    own, network = zip(*parts, strict=True)
    return torch.cat(own), torch.cat(network)


def tracked_landmarks(template: FaceTemplate, person: TrackedPerson) -> Tensor:  # [T, 68, 2] px of the video
    """Projects the landmarks of a tracked head."""
    neutral, found = person.head.neutral[: len(template.vertices)], person.track
    Ks = torch.from_numpy(person.Ks)
    return _landmarks(template, neutral, found.expression, found.rotation, found.translation, Ks)


def measure(person: TrackedPerson, clips: Sequence[Clip], truth: dict[str, Tensor], seconds: float) -> Motion:
    """Compares a tracked person with the truth; clips: what was observed of it."""
    template, found = FaceTemplate.default(0), person.track
    inner = slice(NUM_JAW, None)
    true = _landmarks(
        template, truth["vertices"], truth["expression"], truth["rotation"], truth["translation"], truth["Ks"]
    )
    eyes = (true[:, OUTER_EYES[0]] - true[:, OUTER_EYES[1]]).norm(dim=1).mean() / 100
    marks = tracked_landmarks(template, person)
    raw, network = detected_landmarks(clips)

    def jitter(points: Tensor) -> float:
        change = (points - true)[:, inner].diff(dim=0)[[f for f in STILL if f + 1 in STILL]]
        return float(change.square().sum(-1).mean().sqrt() / eyes)

    turns = [axis_angle_from_rotation(R @ R[:1].mT)[:, 1].numpy() for R in (found.rotation, truth["rotation"])]
    lag, turn = _delay(*turns)
    lids = [template.expression_names.index(f"eyeBlink{side}") for side in ("Left", "Right")]
    active = truth["expression"] > 0.1
    depths = [t[:, 2] / t[:, 2].mean() for t in (found.translation, truth["translation"])]
    return Motion(
        jitter=jitter(marks),
        jitter_detector=jitter(raw),
        jitter_network=jitter(network),
        error=float((marks - true)[:, inner].norm(dim=-1).mean() / eyes),
        error_network=float((network - true)[:, inner].norm(dim=-1).mean() / eyes),
        lag=lag,
        turn=turn,
        blink=float(found.expression[[round(at * RATE) for at in BLINKS]][:, lids].mean()),
        expression=float((found.expression - truth["expression"]).abs()[active].mean()),
        depth_jump=float((depths[0] - depths[1]).diff().abs().mean() * 1000),
        frames_a_second=len(found.time) / seconds,
    )


def main(out: Path, people: int = 3, seed: int = 1, population: Path | None = None, refine: int = 10) -> None:
    """Renders and tracks videos, without and with refinement of the frames, and prints the means.

    Args:
        out: Folder for the videos, the results and track_motion.json.
        people: Number of videos.
        seed: Seed of the first one.
        population: People of another head model, see tools/register_population.py; MakeHuman's without it.
        refine: Steps of refinement.
    """
    generator = SceneGenerator(level=0, size=SIZE, supersample=1.0)
    others = Population(population) if population else None
    rows: dict[str, list[Motion]] = {"points": [], f"refined, {refine} steps": []}
    for number in range(seed, seed + people):
        video = out / f"video-{number}.mp4"
        truth = render_video(generator, video, number, others)
        clips, _ = observe(video, out / f"video-{number}-observed", SIZE, SIZE)
        for steps, row in zip((0, refine), rows.values(), strict=True):
            result = out / f"video-{number}-{steps}"
            began = time.perf_counter()
            person, *_ = track(video, result, refine=steps)
            row.append(measure(person, clips, truth, time.perf_counter() - began))
            print(f"{video.stem}, {steps} steps: {row[-1]}")
    means = {
        name: {key: round(float(np.mean([asdict(m)[key] for m in row])), 4) for key in asdict(row[0])}
        for name, row in rows.items()
    }
    with atomic_path(out / "track_motion.json") as path:
        path.write_text(
            json.dumps({"mean": means, "videos": {n: [asdict(m) for m in r] for n, r in rows.items()}}, indent=1)
        )
    for name, row in means.items():
        print(f"{name}: {row}")


def _rise(t: NDArray[np.floating], start: float, length: float) -> NDArray[np.floating]:
    x = ((t - start) / length).clip(0, 1)
    return x * x * (3 - 2 * x)


def _landmarks(
    template: FaceTemplate, neutral: Tensor, expression: Tensor, rotation: Tensor, translation: Tensor, Ks: Tensor
) -> Tensor:  # [T, 68, 2] px
    shapes = neutral + torch.einsum("te,evc->tvc", expression, template.expressions)
    return project(template.landmarks(shapes) @ rotation.mT + translation[:, None], Ks)


def _delay(found: NDArray[np.floating], true: NDArray[np.floating]) -> tuple[float, float]:
    """Finds the delay in frames, and the amplitude, with which one curve follows another in fast motion."""
    frames = np.arange(round(FAST[0] * RATE), round(FAST[1] * RATE))
    best = (np.inf, 0.0, 1.0)
    for shift in SHIFTS:
        moved = np.interp(frames + shift, np.arange(len(found)), found)
        design = np.stack([true[frames], np.ones(len(frames))], 1)
        (gain, level), *_ = np.linalg.lstsq(design, moved, rcond=None)
        error = float(np.square(design @ (gain, level) - moved).sum())
        best = min(best, (error, float(shift), float(gain)))
    return best[1], best[2]


if __name__ == "__main__":
    tyro.cli(main)
