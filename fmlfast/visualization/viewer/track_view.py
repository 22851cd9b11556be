"""Plays a tracked video: the heads over its frames, or seen from anywhere."""

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fmlfast.data.video.decode import Frame, Video
from fmlfast.reconstruction.head import Head, Motion
from fmlfast.rotation import FRONTAL
from fmlfast.visualization.viewer.controls import Light, Look
from fmlfast.visualization.viewer.drawing import lit_mesh, of_style
from fmlfast.visualization.viewer.figure import Figure
from fmlfast.visualization.viewer.stage import Scene, Stage
from fmlfast.visualization.viewer.through import Through

_AHEAD = 2.0  # seconds up to which frames are decoded on the way rather than jumped over
_TICK, _SLIDER = 1 / 30, 0.15  # seconds between steps of the player, and of its slider
_ABSENT = 0.5  # seconds from the nearest frame in which a person was seen, beyond which there is none
_SPEEDS = ("0.25", "0.5", "1", "2")
VIDEO_LIGHT = "video"


class Tracked(Protocol):
    """One person tracked through a video: what `TrackView` plays."""

    @property
    def head(self) -> Head:
        """The person."""
        ...

    @property
    def motion(self) -> Motion:
        """Expression and pose in T frames."""
        ...

    @property
    def Ks(self) -> np.ndarray:  # [T, 3, 3]
        """Intrinsics, px of the video."""
        ...

    @property
    def sh(self) -> Tensor:  # [T, 9, 3]
        """Light, as in `Codes.sh`."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the video, px."""
        ...

    @property
    def video(self) -> Path | None:
        """The video, where it is at hand."""
        ...


class VideoFrames:
    """Gives the frames of a video by time, quickly where time runs on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._frames: Iterator[Frame] = iter(())
        self._now: Frame | None = None
        self._next: Frame | None = None
        self._image: np.ndarray | None = None

    def at(self, seconds: float) -> np.ndarray | None:
        """Decodes the frame that is shown at a time, uint8 [H, W, 3]; None where there is none."""
        if self._now is None or not self._now.time - 1e-6 <= seconds <= self._now.time + _AHEAD:
            self._frames = Video(self.path).frames(max(0.0, seconds))
            self._now, self._next, self._image = next(self._frames, None), next(self._frames, None), None
        while self._next is not None and self._next.time <= seconds + 1e-6:
            self._now, self._next, self._image = self._next, next(self._frames, None), None
        if self._image is None and self._now is not None:
            self._image = self._now.image()
        return self._image


class TrackView:
    """A tracked video on a stage."""

    def __init__(self, stage: Stage, people: Sequence[Tracked]) -> None:
        if not people:
            raise ValueError("the tracked video shows nobody")
        self.stage, self.people = stage, people
        self.figures = [Figure.of(person.head) for person in people]
        times = np.concatenate([person.motion.times for person in people])
        self.start, self.end = float(times.min()), float(times.max())
        self.time, self.origin = self.start, people[0].motion.translation.mean(0)
        video = people[0].video
        self.frames = VideoFrames(video) if video is not None and video.is_file() else None
        gui = stage.server.gui
        with gui.add_folder("Video"):
            self.play = gui.add_checkbox("Play", True)
            first, last = round(self.start, 2), round(max(self.end, self.start + 0.01), 2)
            self.slider = gui.add_slider("Seconds", min=first, max=last, step=0.01, initial_value=first)
            self.speed = gui.add_dropdown("Speed", list(_SPEEDS), initial_value="1")
            self.through = gui.add_checkbox("Through the camera", True)
            self.opacity = gui.add_slider("Opacity", min=0.0, max=1.0, step=0.01, initial_value=1.0)
            self.beside = gui.add_checkbox("Video beside it", False)
        self.look = Look(gui, stage)
        self.light = Light(gui, stage.changed, {VIDEO_LIGHT: torch.zeros(9, 3)})
        self.light.source.value = VIDEO_LIGHT
        self.slider.on_update(self._sought)
        for control in (self.through, self.opacity, self.beside):
            control.on_update(stage.changed)
        self._player = threading.Thread(target=self._run, daemon=True, name="player")
        self._player.start()

    def _sought(self, event: Any) -> None:
        if event.client is not None:  # not the player, which moves the slider, too
            self.time = float(self.slider.value)
            self.stage.changed()

    def _run(self) -> None:
        last = shown = time.monotonic()
        while not self.stage.stopped:
            time.sleep(_TICK)
            now = time.monotonic()
            if self.play.value:
                self.time = self.advanced(self.time + (now - last) * float(self.speed.value))
                self.stage.changed()
                if now - shown > _SLIDER:
                    self.slider.value, shown = round(self.time, 2), now  # within its limits: they are rounded, too
            last = now

    def advanced(self, seconds: float) -> float:
        """Starts anew behind the last frame."""
        return seconds if seconds <= self.end else self.start

    def scene(self, fine: bool) -> Scene:
        """Builds the frame of the player's time."""
        seconds, style, over = self.time, self.look.style, self.through.value
        image = self.frames.at(seconds) if self.frames is not None and over else None
        forward = torch.tensor(FRONTAL).T  # from the camera frame to the world
        meshes = []
        for person, whole in zip(self.people, self.figures, strict=True):
            motion = person.motion
            index = int(np.abs(motion.times - seconds).argmin())
            if abs(float(motion.times[index]) - seconds) > _ABSENT:
                continue
            figure = of_style(whole, style, fine)
            position = forward @ (motion.translation[index] - self.origin)
            vertices = figure.placed(motion.expression[index], forward @ motion.rotation[index], position)
            light = person.sh[index] if self.light.source.value == VIDEO_LIGHT else self.light.light
            opacity = figure.overlaid * self.opacity.value if over else None
            meshes.append(lit_mesh(figure, vertices, light, style, opacity))
        if not over:
            return Scene(meshes)
        width, height = self.people[0].size
        if image is None:
            image = np.full((height, width, 3), 24, np.uint8)
        first = self.people[0]
        K = torch.from_numpy(first.Ks[int(np.abs(first.motion.times - seconds).argmin())])
        return Scene(meshes, Through(image, K, self.origin, self.beside.value))
