"""Decodes videos, upright and with square pixels, and detects scene cuts."""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fmlfast.common.extras import require
from fmlfast.common.given_files import check_file
from fmlfast.data.video.color import to_srgb

VIDEO_SUFFIXES = frozenset(
    ".3g2 .3gp .asf .avi .divx .dv .f4v .flv .gif .m1v .m2ts .m2v .m4v .mkv .mov .mp4 .mpe .mpeg .mpg .mts .mxf .ogm "
    ".ogv .qt .rm .rmvb .ts .vob .webm .wmv".split()
)
"""Suffixes of videos searched for in folders; a file given by name is read whatever its suffix."""

SEEK_MARGIN, SAME_TIME = 0.1, 1e-4  # seconds: seek to before a frame, as stamps are rounded; two stamps of one frame

_THUMBNAIL = (48, 27)  # pixels, enough to detect a cut
_CUT_FLOOR = 12.0  # of 255: people who move stay below 8, averaged over the thumbnail
_CUT_FACTOR = 5.0  # times the recent median, so that a shaking camera is no cut
_CUT_MEMORY = 24  # frames
MOST_PIXELS = 2**26  # of a frame, twice those of 8K: decoders allocate what a damaged header tells
_MOST_ASPECT = 10.0  # of a pixel's sides


@dataclass(frozen=True)
class Frame:
    """One decoded frame; its image is converted on demand."""

    time: float  # seconds from the start of the video
    _raw: Any
    _width: int  # with square pixels, before rotation

    def image(self) -> np.ndarray:
        """Converts the frame to [H, W, 3] uint8 sRGB, upright and with square pixels."""
        codes = self._to_array(self._width, self._raw.height, "BICUBIC")
        return to_srgb(codes, int(self._raw.color_trc), int(self._raw.color_primaries))

    def thumbnail(self) -> np.ndarray:
        """Converts the frame to a small uint8 image for CutDetector."""
        return self._to_array(*_THUMBNAIL, "AREA")

    def _to_array(self, width: int, height: int, interpolation: str) -> np.ndarray:
        picture = self._raw.reformat(width=width, height=height, format="rgb24", interpolation=interpolation)
        return np.ascontiguousarray(_upright(picture.to_ndarray(), self._raw.side_data.get("DISPLAYMATRIX")))


class Video:
    """A video file: iterate over `frames()`; then `trouble` names decoding errors, "" if there were none."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.trouble = ""

    def frames(self, start: float = 0.0) -> Iterator[Frame]:
        """Decodes the first video stream as far as possible; damaged packets are skipped and noted in `trouble`.

        It begins at the last key frame at or before `start` seconds. Raises ValueError when the file cannot be opened
        or has no video stream, ImportError without the `video` extra.
        """
        with self.opened() as (container, stream):
            clock = _Clock(container, stream, 0.0 if start <= 0 else self.origin)
            count = 0
            if start > 0:
                container.seek(int((start + self.origin) / stream.time_base), stream=stream)
            for raw in self._decode(container, stream):
                if count == 0 and start <= 0 and raw.time is not None:
                    clock.origin = float(raw.time)
                yield Frame(clock.time(raw), raw, _square_width(raw, stream))
                count += 1
            whole = start <= 0 and not self.trouble
            if whole and stream.frames and count < 0.95 * stream.frames:  # edit lists hide a few
                self.trouble = f"only {count} of {stream.frames} frames are there"

    @cached_property
    def origin(self) -> float:
        """The file's own stamp of the first frame, seconds; what `frames` counts from."""
        with self.opened() as (container, stream):
            first = next(self._decode(container, stream), None)
            return 0.0 if first is None or first.time is None else float(first.time)

    def rate_and_count(self) -> tuple[Fraction, int | None]:
        """Reads the mean number of frames a second, and the number of frames where the file tells it or its length."""
        av = require("av", "video")
        with self.opened() as (container, stream):
            rate = Fraction(stream.average_rate or 25)
            if stream.frames:
                return rate, stream.frames
            return rate, None if container.duration is None else round(container.duration / av.time_base * rate)

    def frames_at(self, times: Sequence[float]) -> Iterator[Frame]:
        """Decodes the frames at these times, rising, in seconds as `frames` tells them; seeks where that is exact.

        Raises what `frames` raises, and ValueError where there is no such frame.
        """
        yield from self._sought(times) or self._in_order(times)

    def _sought(self, times: Sequence[float]) -> list[Frame] | None:
        """Seeks frames; None where the file's seeking or stamps cannot be trusted."""
        av, found = require("av", "video"), []
        with self.opened() as (container, stream):
            if not _stamped(container):
                return None
            for time in times:
                stamp = time + self.origin
                try:
                    container.seek(max(0, int((stamp - SEEK_MARGIN) / stream.time_base)), stream=stream)
                except (av.FFmpegError, OSError):
                    return None
                frame = self._exactly(self._decode(container, stream), stamp)
                if frame is None:
                    return None
                found.append(Frame(time, frame, _square_width(frame, stream)))
        return found

    @staticmethod
    def _exactly(frames: Iterator[Any], stamp: float) -> Any:
        """Finds the frame of a stamp, where earlier or no frames come before it; None else."""
        first = True
        for frame in frames:
            if frame.time is None or (first and frame.time > stamp + SAME_TIME):
                return None
            first = False
            if frame.time > stamp - SAME_TIME:
                return frame if frame.time < stamp + SAME_TIME else None
        return None

    def _in_order(self, times: Sequence[float]) -> Iterator[Frame]:
        frames = self.frames()
        for time in times:
            for frame in frames:
                if frame.time > time - SAME_TIME:
                    yield frame
                    break
            else:
                raise ValueError(f"{self.path}: no frame at {time:.3f} s")

    @contextmanager
    def opened(self) -> Iterator[tuple[Any, Any]]:
        """Opens the file: PyAV's container and its first video stream. Raises what `frames` raises."""
        av = require("av", "video")
        try:
            container = av.open(file_address(check_file(self.path)), metadata_errors="ignore")
        except (av.FFmpegError, OSError) as error:
            raise ValueError(f"cannot be opened as a video: {_reason(error)}") from error
        with container:
            if not container.streams.video:
                raise ValueError("has no video stream")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise ValueError("has a video stream of an unknown codec")
            stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}
            yield container, stream

    def _decode(self, container: Any, stream: Any) -> Iterator[Any]:
        av, damaged = require("av", "video"), 0
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                yield from packet.decode()
            except av.FFmpegError as error:
                damaged += 1
                self.trouble = f"{damaged} damaged packets, the last: {_reason(error)}"
                if damaged > 1000:  # a demuxer that fails for ever
                    return


class CutDetector:
    """Detects hard cuts by the mean absolute difference of successive thumbnails.

    A cut is a difference above 12 of 255 and above 5 times the median of recent ones. Cross-fades are not found.
    """

    def __init__(self) -> None:
        self._last: np.ndarray | None = None
        self._recent: deque[float] = deque(maxlen=_CUT_MEMORY)

    def step(self, thumbnail: np.ndarray) -> bool:
        """Compares the next thumbnail, uint8, with the last one; True when it begins a new scene."""
        current = thumbnail.astype(np.float32)
        last, self._last = self._last, current
        if last is None:
            return False
        difference = float(np.abs(current - last).mean())
        usual = float(np.median(self._recent)) if self._recent else 0.0
        if difference > max(_CUT_FLOOR, _CUT_FACTOR * usual):
            self._recent.clear()
            return True
        self._recent.append(difference)
        return False


class _Clock:
    """Tells the times of frames from the start of the video; they rise, even where the file's stamps do not."""

    def __init__(self, container: Any, stream: Any, origin: float) -> None:
        self.origin = origin
        self._rate, self._stamped = float(stream.average_rate or 25), _stamped(container)
        self._last, self._shift, self._count = -1.0, 0.0, 0

    def time(self, raw: Any) -> float:
        """Returns the time of the next frame, seconds."""
        stamp = raw.time if self._stamped else None
        time = self._count / self._rate if stamp is None else float(stamp) - self.origin + self._shift
        if time <= self._last:  # files that were joined begin anew
            self._shift += self._last + 1 / self._rate - time
            time = self._last + 1 / self._rate
        self._last, self._count = time, self._count + 1
        return time


def _stamped(container: Any) -> bool:
    """Tells whether a format stores when frames are shown; AVI stores only their order."""
    return "avi" not in container.format.name.split(",")


def file_address(path: Path) -> str:
    """Returns what PyAV opens as this file: a name such as 10:30.mp4 alone would be the address of protocol 10."""
    return f"file:{path}"


def _upright(image: np.ndarray, matrix: Any) -> np.ndarray:
    """Turns and mirrors an image as its display matrix says, None for none, to the nearest quarter turn.

    The matrix begins (a, b, u, c, d) in 16.16: column a x + c y and row b x + d y show the pixel of column x and row y
    (ISO/IEC 14496-12, 8.3.2).
    """
    if matrix is None:
        return image
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].astype(float)
    if abs(b) + abs(c) > abs(a) + abs(d):
        image, a, d = image.swapaxes(0, 1), c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _square_width(raw: Any, stream: Any) -> int:
    """Returns the width of a frame with square pixels; those of impossible shape are taken for square."""
    aspect = float(stream.sample_aspect_ratio or 1)
    return max(1, round(raw.width * aspect)) if 1 / _MOST_ASPECT < aspect < _MOST_ASPECT else raw.width


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error)
