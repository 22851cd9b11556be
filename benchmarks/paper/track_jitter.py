"""Measures the jitter of tracking on real videos, whose motion nobody knows, by second differences along time.

python -m benchmarks.paper.track_jitter VIDEO... --out FOLDER: tracks them, prints and writes FOLDER/track_jitter.json

Points of the nose and the corners of the eyes, which no expression moves far, in the frames around which the head moves
by less than 1% of the outer-eye distance a frame: there the second difference of what is true is next to nothing.
Values are root mean squares of it in % of the outer-eye distance.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from torch import Tensor
from tyro.conf import Positional

from benchmarks.paper.track_motion import detected_landmarks, observe, tracked_landmarks
from fmlfast.common.atomic import atomic_path
from fmlfast.data.video.decode import Video
from fmlfast.ibug68 import OUTER_EYES
from fmlfast.reconstruction.track.run import track
from fmlfast.template.face_template import FaceTemplate

RIGID = [*range(27, 36), 36, 39, 42, 45]  # iBUG's nose and corners of the eyes
STILL = 1.0  # % of the outer-eye distance that the mean point moves from frame to frame, at most


@dataclass(frozen=True)
class Jitter:
    """Second differences in still frames, in % of the outer-eye distance."""

    frames: int
    """In which the head is still."""
    detector: float
    """Of MediaPipe's own points."""
    network: float
    """Of the landmark network's."""
    tracked: float
    distance: float
    """Mean distance of tracked landmarks from the network's, all frames and all inner landmarks."""


def measure(detector: Tensor, network: Tensor, tracked: Tensor) -> Jitter:
    """Compares landmarks [T, 68, 2] px of the same frames."""
    eyes = (network[:, OUTER_EYES[0]] - network[:, OUTER_EYES[1]]).norm(dim=1).mean() / 100
    moved = network[:, RIGID].mean(1).diff(dim=0).norm(dim=-1) / eyes  # [T - 1]
    still = torch.maximum(moved[1:], moved[:-1]) < STILL

    def jitter(points: Tensor) -> float:
        rigid = points[:, RIGID]
        second = (rigid[2:] - 2 * rigid[1:-1] + rigid[:-2])[still]
        return round(float(second.square().sum(-1).mean().sqrt() / eyes), 4)

    apart = (tracked - network)[:, 17:].norm(dim=-1).mean() / eyes
    return Jitter(int(still.sum()), jitter(detector), jitter(network), jitter(tracked), round(float(apart), 3))


def main(videos: Annotated[list[Path], Positional], /, out: Path, refine: int = 10) -> None:
    """Tracks videos of one person each and prints the jitter.

    Args:
        videos: Video files.
        out: Folder for the tracked videos and track_jitter.json.
        refine: Steps of refinement.
    """
    template, rows = FaceTemplate.default(0), {}
    for video in videos:
        height, width = next(Video(video).frames()).image().shape[:2]
        clips, numbers = observe(video, out / f"{video.stem}-observed", width, height)
        person, *_ = track(video, out / video.stem, refine=refine)
        places = {int(number): i for i, number in enumerate(person.track.frame)}
        if not set(numbers) <= set(places):
            print(f"{video}: the first face is not that of the person seen most; left out")
            continue
        both = [places[number] for number in numbers]
        row = measure(*detected_landmarks(clips), tracked_landmarks(template, person)[both])
        rows[video.stem] = asdict(row)
        print(f"{video.stem}: {row}", flush=True)
    means = {name: round(float(np.mean([row[name] for row in rows.values()])), 4) for name in Jitter.__annotations__}
    print(f"mean over {len(rows)} videos: {means}")
    with atomic_path(out / "track_jitter.json") as path:
        path.write_text(json.dumps({"mean": means, "videos": rows}, indent=1) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
