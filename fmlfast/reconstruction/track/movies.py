"""Draws a tracked video: the heads over it, beside their geometry and under a standard light, and turning."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from fmlfast.data.video.decode import Video
from fmlfast.data.video.encode import VideoPiece, join_pieces
from fmlfast.reconstruction.head import Head
from fmlfast.reconstruction.track.draw import HeadDrawer, Layer, Pose, composite, paper
from fmlfast.reconstruction.track.observe import Segment
from fmlfast.reconstruction.track.project import Project
from fmlfast.reconstruction.track.threads import ahead, mapped, single_threads
from fmlfast.reconstruction.track.tracked import TrackedPerson
from fmlfast.rotation import FRONTAL, rotation_from_axis_angle
from fmlfast.visualization.appearance import standard_light

OVERLAY, COMPARISON = "overlay", "comparison"
PANEL = 640  # px, largest width of each picture of the comparison
TURN_SIZE, TURN_SECONDS, TURN_RATE = 512, 4.0, 24
TURN_DISTANCE, TURN_SPAN = 900.0, 330.0  # mm to the head, that the picture spans there


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
    drawers, K = [HeadDrawer(head) for head in heads], torch.from_numpy(people[0].K)
    places = [{int(n): i for i, n in enumerate(person.track.frame.tolist())} for person in people]
    width, height = people[0].size

    def draw(item: tuple[int, float, np.ndarray]) -> tuple[float, np.ndarray, np.ndarray]:
        number, time, frame = item
        layers = []
        for person, drawer, place in zip(people, drawers, places, strict=True):
            if number in place:
                track = person.track.part(slice(place[number], place[number] + 1))
                pose = Pose(track.expression[0], track.rotation[0], track.translation[0], track.sh[0])
                layers.append(drawer.draw(pose, K, width, height))
        found = [layer for layer in layers if layer is not None]
        return time, composite(frame, found, "overlay"), _comparison(frame, found)

    missing = [s for s in segments if not project.piece(COMPARISON, s.number).is_file()]
    total = segments[-1].end
    first = missing[0].first if missing else total
    with tqdm(total=total, initial=first, disable=not progress, desc="video", unit="frame") as bar, single_threads():
        drawn = mapped(draw, ahead(_frames(video, first, total)))
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
    """Draws the neutral head turning once around under the standard light, as MP4."""
    drawer = HeadDrawer(head)
    focal = TURN_SIZE * TURN_DISTANCE / TURN_SPAN
    K = torch.tensor([[focal, 0, TURN_SIZE / 2], [0, focal, TURN_SIZE / 2], [0, 0, 1]])
    low, high = head.neutral.amin(0), head.neutral.amax(0)
    middle, count = (low + high) / 2, round(TURN_SECONDS * TURN_RATE)

    def draw(step: int) -> np.ndarray:
        turn = rotation_from_axis_angle(torch.tensor([0.0, 2 * torch.pi * step / count, 0.0]))
        rotation = torch.tensor(FRONTAL) @ turn
        place = torch.tensor([0.0, 0.0, TURN_DISTANCE]) - rotation @ middle
        still = torch.zeros(len(head.template.expressions))
        layer = drawer.draw(Pose(still, rotation, place, standard_light()), K, TURN_SIZE, TURN_SIZE)
        return composite(paper(TURN_SIZE, TURN_SIZE), [] if layer is None else [layer], "relit")

    with VideoPiece(path, Fraction(TURN_RATE)) as piece, single_threads():
        for step, image in enumerate(mapped(draw, range(count))):
            piece.add(image, step / TURN_RATE)


def _frames(video: Video, first: int, end: int) -> Iterator[tuple[int, float, np.ndarray]]:
    for number, frame in enumerate(video.frames()):
        if number >= end:
            return
        if number >= first:
            yield number, frame.time, frame.image()


def _comparison(frame: np.ndarray, layers: Sequence[Layer]) -> np.ndarray:
    """Draws the frame, the heads' geometry and the heads under the standard light side by side."""
    height, width = frame.shape[:2]
    empty = paper(width, height)
    cells = [frame, composite(empty, layers, "clay"), composite(empty, layers, "relit")]
    if width > PANEL:
        size = PANEL, round(height * PANEL / width)
        cells = [
            np.asarray(Image.fromarray(cell).resize(size, Image.Resampling.BILINEAR, reducing_gap=2)) for cell in cells
        ]
    return np.concatenate(cells, 1)
