"""Draws a tracked video: the heads over it, beside their geometry and under a standard light, and turning."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fmlfast.common.progress import ProgressBar
from fmlfast.data.video.decode import Video
from fmlfast.data.video.encode import VideoPiece, join_pieces
from fmlfast.reconstruction.head import Head
from fmlfast.reconstruction.track.draw import KINDS, HeadDrawer, Layer, Poses, composite, paper
from fmlfast.reconstruction.track.observe import Segment
from fmlfast.reconstruction.track.project import Project
from fmlfast.reconstruction.track.threads import ahead, mapped, single_threads
from fmlfast.reconstruction.track.tracked import TrackedPerson
from fmlfast.rotation import FRONTAL, rotation_from_axis_angle
from fmlfast.visualization.appearance import standard_light

OVERLAY, COMPARISON = "overlay", "comparison"
PANEL, PANEL_SHARE = 640, 2 / 3  # largest width of each picture of the comparison: px, share of the frame's
BATCH, BATCH_PIXELS = 4, 2_000_000  # frames that are drawn together, and their pixels, at most
TURN_SIZE, TURN_SECONDS, TURN_RATE, TURN_ANGLE = 512, 4.0, 24, 80.0  # px; degrees to each side
TURN_DISTANCE, TURN_SPAN = 900.0, 330.0  # mm to the head, that the picture spans there


@dataclass(frozen=True)
class Shown:
    """A frame to draw over."""

    number: int
    time: float  # seconds
    image: np.ndarray  # [H, W, 3] uint8 sRGB


def draw_videos(
    video: Video,
    project: Project,
    segments: Sequence[Segment],
    people: Sequence[TrackedPerson],
    heads: Sequence[Head],
    rate: Fraction,
    progress: bool,
) -> None:
    """Draws `overlay.mp4`, at the source's size, times and sound, and `comparison.mp4`.

    The latter shows the frame, the heads' geometry and the heads under the standard light.
    """
    drawers = [HeadDrawer(head) for head in heads]
    places = [{int(n): i for i, n in enumerate(person.track.frame.tolist())} for person in people]
    width, height = people[0].size
    panel = _panel_size(width, height)
    K = torch.from_numpy(people[0].K)
    page = paper(width, height)

    def draw(batch: Sequence[Shown]) -> list[tuple[float, np.ndarray, np.ndarray]]:
        layers: list[list[Layer]] = [[] for _ in batch]
        for person, drawer, place in zip(people, drawers, places, strict=True):
            there = [i for i, shown in enumerate(batch) if shown.number in place]
            if not there:
                continue
            track = person.track.part(torch.tensor([place[batch[i].number] for i in there]))
            poses = Poses(track.expression, track.rotation, track.translation, track.sh)
            for i, layer in zip(there, drawer.draw(poses, K, width, height, KINDS), strict=True):
                layers[i] += [] if layer is None else [layer]
        done = []
        for shown, heads_there in zip(batch, layers, strict=True):
            beside = [shown.image, *(composite(page, heads_there, kind) for kind in ("clay", "relit"))]
            cells = [_resized(cell, panel) for cell in beside]
            done.append((shown.time, composite(shown.image, heads_there, "overlay"), np.concatenate(cells, 1)))
        return done

    missing = [s for s in segments if not project.piece(COMPARISON, s.number).is_file()]
    total = segments[-1].end
    first = missing[0].first if missing else total
    bar = ProgressBar(total=total, initial=first, disable=not progress, desc="video", unit="frame")
    batch = max(1, min(BATCH, round(BATCH_PIXELS / (width * height))))
    with (
        bar,
        single_threads(),
        closing(ahead(_frames(video, first, total))) as frames,
        closing(mapped(draw, _batches(frames, batch))) as batches,
    ):
        drawn = chain.from_iterable(batches)
        for segment in missing:
            with (
                VideoPiece(project.piece(COMPARISON, segment.number), rate) as comparison,  # ends last
                VideoPiece(project.piece(OVERLAY, segment.number), rate) as overlay,
            ):
                for _ in segment.times:
                    time, over, beside = next(drawn)
                    overlay.add(over, time)
                    comparison.add(beside, time)
                    bar.update(1)
    for kind in (OVERLAY, COMPARISON):
        pieces = [(project.piece(kind, segment.number), segment.times[0]) for segment in segments]
        join_pieces(pieces, project.folder / f"{kind}.mp4", video.path)


def draw_turntable(head: Head, path: Path) -> None:
    """Draws the neutral head turning from side to side under the standard light, as MP4; it has no back."""
    drawer = HeadDrawer(head)
    focal = TURN_SIZE * TURN_DISTANCE / TURN_SPAN
    K = torch.tensor([[focal, 0, TURN_SIZE / 2], [0, focal, TURN_SIZE / 2], [0, 0, 1]])
    low, high = head.neutral.amin(0), head.neutral.amax(0)
    middle, count = (low + high) / 2, round(TURN_SECONDS * TURN_RATE)

    def draw(steps: Sequence[int]) -> list[np.ndarray]:
        swing = (torch.tensor(list(steps)) * (2 * torch.pi / count)).sin() * (TURN_ANGLE * torch.pi / 180)
        angles = torch.nn.functional.pad(swing[:, None], (1, 1))
        rotation = torch.tensor(FRONTAL) @ rotation_from_axis_angle(angles)
        place = torch.tensor([0.0, 0.0, TURN_DISTANCE]) - rotation @ middle
        still = torch.zeros(len(steps), len(head.template.expressions))
        poses = Poses(still, rotation, place, standard_light().expand(len(steps), 9, 3))
        layers = drawer.draw(poses, K, TURN_SIZE, TURN_SIZE, ("relit",))
        return [composite(paper(TURN_SIZE, TURN_SIZE), [layer] if layer else [], "relit") for layer in layers]

    steps = (range(first, min(first + BATCH, count)) for first in range(0, count, BATCH))
    with (
        VideoPiece(path, Fraction(TURN_RATE)) as piece,
        single_threads(),
        closing(mapped(draw, steps)) as batches,
    ):
        for step, image in enumerate(chain.from_iterable(batches)):
            piece.add(image, step / TURN_RATE)


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, reducing_gap=2))


def _frames(video: Video, first: int, end: int) -> Iterator[Shown]:
    for number, frame in enumerate(video.frames()):
        if number >= end:
            return
        if number >= first:
            yield Shown(number, frame.time, frame.image())


def _batches(frames: Iterator[Shown], size: int) -> Iterator[list[Shown]]:
    while batch := list(islice(frames, size)):
        yield batch


def _panel_size(width: int, height: int) -> tuple[int, int]:
    """Chooses the size of each picture of the comparison, px; even, as 4:2:0 wants it."""
    wide = 2 * round(min(PANEL, PANEL_SHARE * width) / 2)
    return wide, 2 * round(height * wide / width / 2)
