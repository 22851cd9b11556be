"""Encodes pictures as H.264 in pieces, and joins the pieces to one MP4 with the sound of the source."""

import heapq
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from fmlfast.common.atomic import atomic_path
from fmlfast.common.extras import require
from fmlfast.data.video.decode import Video, file_address

TIME_BASE = Fraction(1, 90_000)  # seconds
_CODECS = (("libx264", {"preset": "superfast", "crf": "20", "bf": "0"}), ("mpeg4", {"qscale": "3", "bf": "0"}))
_COPIED = frozenset("aac mp3 ac3 eac3 opus alac flac".split())  # codecs of sound that MP4 holds
_AAC_RATES = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000)  # Hz
_EXACT = {"movie_timescale": str(TIME_BASE.denominator)}  # else the start of the pictures is rounded to ms


class VideoPiece:
    """Writes successive pictures of one size as a video file of its own; it appears at the end of the `with` block."""

    def __init__(self, path: Path, rate: Fraction) -> None:
        """Prepares the piece `path`.mp4; rate: frames a second, about."""
        self._path, self._rate = path, rate
        self._atomic = atomic_path(path)
        self._container: Any = None
        self._stream: Any = None
        self._start = 0.0

    def __enter__(self) -> Self:
        self._temporary = self._atomic.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with ExitStack() as stack:
            stack.push(self._atomic)
            if self._container is not None:
                stack.callback(self._container.close)
                if kind is None:
                    self._container.mux(self._stream.encode(None))
            if error is not None:
                raise error

    def add(self, image: np.ndarray, time: float) -> None:
        """Appends a picture [H, W, 3] uint8 sRGB that is shown from `time` on, seconds; times rise."""
        av = require("av", "video")
        height, width = image.shape[:2]
        if self._container is None:
            self._start = time
            self._container = av.open(file_address(self._temporary), "w")
            self._stream = add_video_stream(av, self._container, width, height, self._rate)
        if width % 2 or height % 2:  # 4:2:0 has one colour for two by two pixels
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame.pts, frame.time_base = round((time - self._start) / TIME_BASE), TIME_BASE
        self._container.mux(self._stream.encode(frame))


def add_video_stream(av: Any, container: Any, width: int, height: int, rate: Fraction) -> Any:
    """Adds an H.264 stream to a container, or MPEG-4 where FFmpeg was built without an encoder for it."""
    name, options = next((name, options) for name, options in _CODECS if name in av.codecs_available)
    stream = container.add_stream(name, rate=rate, options=options)
    stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
    stream.time_base = stream.codec_context.time_base = TIME_BASE
    return stream


def join_pieces(pieces: Sequence[tuple[Path, float]], out: Path, source: Path | None = None) -> None:
    """Joins pieces, each with the time of its first picture in seconds, to `out`; with the sound of `source`, if any.

    Pictures are not encoded again. Sound is copied where MP4 holds its codec, else encoded as AAC; it ends with the
    pictures.
    """
    av = require("av", "video")
    with atomic_path(out) as temporary, av.open(file_address(temporary), "w", options=_EXACT) as container:
        with av.open(file_address(pieces[0][0])) as first:
            video = container.add_stream_from_template(first.streams.video[0])
        sound = None if source is None else _Sound(av, source, container, _end(av, pieces))
        streams = [_pictures(av, pieces, video)]
        if sound is not None and sound.found:
            streams.append(sound.packets())
        for _, _, packet in heapq.merge(*streams, key=lambda item: item[:2]):
            container.mux(packet)


def _pictures(av: Any, pieces: Sequence[tuple[Path, float]], stream: Any) -> Iterator[tuple[float, int, Any]]:
    for path, start in pieces:
        with av.open(file_address(path)) as piece:
            for packet in piece.demux(piece.streams.video[0]):
                if packet.dts is None:  # the last one is empty
                    continue
                seconds = float(packet.pts * packet.time_base) + start
                packet.pts = packet.dts = round(seconds / TIME_BASE)
                packet.time_base, packet.stream = TIME_BASE, stream
                yield seconds, 0, packet


def _end(av: Any, pieces: Sequence[tuple[Path, float]]) -> float:
    """Returns the time at which the last picture ends, seconds."""
    path, start = pieces[-1]
    with av.open(file_address(path)) as piece:
        stream = piece.streams.video[0]
        last = max(float(packet.pts * packet.time_base) for packet in piece.demux(stream) if packet.pts is not None)
        return start + last + float(1 / (stream.average_rate or 25))


class _Sound:
    """Copies or encodes the first audio stream of a file, from its first picture to an end."""

    def __init__(self, av: Any, source: Path, container: Any, end: float) -> None:
        self._av, self._source, self._end, self._start = av, file_address(source), end, Video(source).origin
        with av.open(self._source, metadata_errors="ignore") as opened:
            streams = opened.streams.audio
            coded = streams[0].codec_context if streams else None  # none for an unknown codec, either
            self.found = coded is not None
            if coded is None:
                return
            given = streams[0]
            self._copied = coded.codec.canonical_name in _COPIED
            if self._copied:
                self._stream = container.add_stream_from_template(given)
            else:
                self._rate = next((rate for rate in _AAC_RATES if rate <= (given.rate or 48_000)), _AAC_RATES[-1])
                self._stream = container.add_stream("aac", rate=self._rate)

    def packets(self) -> Iterator[tuple[float, int, Any]]:
        """Yields time, order and packet."""
        with self._av.open(self._source, metadata_errors="ignore") as opened:
            packets = opened.demux(opened.streams.audio[0])
            yield from self._copies(packets) if self._copied else self._encoded(packets)

    def _copies(self, packets: Iterator[Any]) -> Iterator[tuple[float, int, Any]]:
        stamped = (packet for packet in packets if packet.dts is not None and packet.pts is not None)
        for time, packet in self._in_time((float(packet.dts * packet.time_base), packet) for packet in stamped):
            shift = round(self._start / packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = self._stream
            yield time, 1, packet

    def _encoded(self, packets: Iterator[Any]) -> Iterator[tuple[float, int, Any]]:
        resampler = self._av.AudioResampler(format="fltp", rate=self._rate)
        last = 0.0
        for _, frame in self._in_time(self._frames(packets)):
            for part in resampler.resample(frame):
                if part.pts is not None:
                    part.pts -= round(self._start / part.time_base)
                for coded in self._stream.encode(part):
                    last = last if coded.dts is None else float(coded.dts * coded.time_base)
                    yield last, 1, coded
        for coded in self._stream.encode(None):
            yield last, 1, coded

    def _frames(self, packets: Iterator[Any]) -> Iterator[tuple[float, Any]]:
        """Decodes sound, with the file's stamps in seconds; damaged packets are silent."""
        after = 0.0
        for packet in packets:
            try:
                frames = packet.decode()
            except self._av.FFmpegError:
                continue
            for frame in frames:
                time = after if frame.time is None else float(frame.time)
                after = time + frame.samples / frame.sample_rate
                yield time, frame

    def _in_time(self, stamped: Iterator[tuple[float, Any]]) -> Iterator[tuple[float, Any]]:
        """Maps stamps to times up to the end; leaves out what does not lie between its neighbours: it is damaged."""
        last, held = -math.inf, None
        for item in chain(stamped, [(math.inf, None)]):
            if held is not None and last < held[0] < item[0]:
                last = held[0]
                if last - self._start >= self._end:
                    return
                yield last - self._start, held[1]
            held = item
