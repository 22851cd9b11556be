"""Videos that are written in pieces: every picture at its time, with the sound of the source."""

from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from fmlfast.data.video.decode import Video
from fmlfast.data.video.encode import VideoPiece, join_pieces
from tests.helpers.videos import smooth, write_video

av = pytest.importorskip("av")

TONE = 440.0  # Hz
RATE = Fraction(25)


def pictures(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    a, b = smooth(rng, height, width).astype(float), smooth(rng, height, width).astype(float)
    return [(a + (b - a) * i / count).astype(np.uint8) for i in range(count)]


def write_pieces(
    folder: Path, images: list[np.ndarray], times: np.ndarray, sizes: list[int]
) -> list[tuple[Path, float]]:
    pieces, first = [], 0
    for number, size in enumerate(sizes):
        path = folder / f"piece-{number}.mp4"
        with VideoPiece(path, RATE) as piece:
            for image, time in zip(images[first : first + size], times[first : first + size], strict=True):
                piece.add(image, float(time))
        pieces.append((path, float(times[first])))
        first += size
    return pieces


def read(path: Path) -> tuple[list[np.ndarray], np.ndarray]:
    """The pictures, and the file's own stamps."""
    video = Video(path)
    frames = [(frame.image(), video.origin + frame.time) for frame in video.frames()]
    assert video.trouble == ""
    return [image for image, _ in frames], np.array([time for _, time in frames])


def with_sound(
    path: Path, codec: str, seconds: float = 2.0, start: float = 0.0, rate: int = 44100, layout: str = "mono"
) -> Path:
    """A video with a tone of `seconds` that begins at `start`."""
    if codec not in av.codecs_available:
        pytest.skip(f"FFmpeg was built without {codec}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream(codec, rate=rate, layout=layout)
        for image in pictures(round(25 * seconds)):
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode(None))
        wave = np.sin(2 * np.pi * TONE * np.arange(round(seconds * rate)) / rate)
        fifo, done = 1024, 0
        while done < len(wave):
            part = (12000 * wave[done : done + fifo]).astype(np.int16)
            channels = 2 if layout == "stereo" else 1
            frame = av.AudioFrame.from_ndarray(np.repeat(part, channels)[None], format="s16", layout=layout)
            frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = done + round(start * rate)
            container.mux(sound.encode(frame))
            done += len(part)
        container.mux(sound.encode(None))
    return path


def heard(path: Path) -> tuple[str, float, float, float]:
    """Codec, start and length in seconds, and pitch of the sound of a video."""
    with av.open(str(path)) as container:
        (stream,) = container.streams.audio
        codec = stream.codec_context.name
        frames = []
        for packet in container.demux(stream):
            with suppress(av.FFmpegError):  # damaged packets that were copied are silent
                frames += [frame for frame in packet.decode() if frame.pts is not None]
    rate = frames[0].sample_rate
    samples = np.concatenate(
        [
            f.to_ndarray().reshape(-1, f.samples * (1 if f.format.is_planar else len(f.layout.channels)))[0]
            for f in frames
        ]
    )
    if not frames[0].format.is_planar:
        samples = samples[:: len(frames[0].layout.channels)]
    spectrum = np.abs(np.fft.rfft(samples.astype(float) * np.hanning(len(samples))))
    pitch = float(np.argmax(spectrum) * rate / len(samples))
    loud = np.nonzero(np.abs(samples) > 0.2 * np.abs(samples).max())[0]
    return codec, frames[0].time + loud[0] / rate, (loud[-1] - loud[0]) / rate, pitch


@pytest.mark.parametrize("sizes", [[12], [5, 4, 3], [1, 10, 1]])
def test_joined_pieces_show_every_picture_at_its_time(tmp_path: Path, sizes: list[int]) -> None:
    images, times = pictures(12), np.arange(12) / 25
    join_pieces(write_pieces(tmp_path, images, times, sizes), tmp_path / "out.mp4")
    got, found = read(tmp_path / "out.mp4")
    np.testing.assert_allclose(found, times, atol=1e-3)
    for image, wanted in zip(got, images, strict=True):
        assert np.abs(image.astype(int) - wanted).mean() < 10


def test_frame_times_may_be_irregular_and_begin_late(tmp_path: Path) -> None:
    times = 0.48 + np.cumsum(np.random.default_rng(0).choice([1, 1, 2, 7], 20)) / 60
    images = pictures(20)
    join_pieces(write_pieces(tmp_path, images, times, [7, 6, 7]), tmp_path / "out.mp4")
    got, found = read(tmp_path / "out.mp4")
    np.testing.assert_allclose(found, times, atol=1e-3)
    for image, wanted in zip(got, images, strict=True):
        assert np.abs(image.astype(int) - wanted).mean() < 10


def test_colours_are_kept(tmp_path: Path) -> None:
    colours = [(200, 30, 30), (30, 180, 40), (20, 40, 200), (225, 180, 150), (0, 0, 0), (255, 255, 255)]
    images = [np.full((48, 64, 3), colour, np.uint8) for colour in colours]
    join_pieces(write_pieces(tmp_path, images, np.arange(6) / 25, [6]), tmp_path / "out.mp4")
    got, _ = read(tmp_path / "out.mp4")
    for image, colour in zip(got, colours, strict=True):
        assert np.abs(image.reshape(-1, 3).mean(0) - colour).max() < 6


@pytest.mark.parametrize(("height", "width"), [(49, 64), (48, 65), (51, 67)])
def test_odd_sizes_gain_a_repeated_row_or_column(tmp_path: Path, height: int, width: int) -> None:
    images = pictures(3, height, width)
    join_pieces(write_pieces(tmp_path, images, np.arange(3) / 25, [3]), tmp_path / "out.mp4")
    got, _ = read(tmp_path / "out.mp4")
    assert got[0].shape == (height + height % 2, width + width % 2, 3)
    assert np.abs(got[0][:height, :width].astype(int) - images[0]).mean() < 10


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mp4", "aac"), ("mkv", "aac"), ("ts", "aac"), ("mp4", "mp3"), ("mkv", "flac")]
)
def test_sound_that_mp4_holds_is_copied(tmp_path: Path, suffix: str, codec: str) -> None:
    source = with_sound(tmp_path / f"source.{suffix}", codec)
    times = np.array([frame.time for frame in Video(source).frames()])
    pieces = write_pieces(tmp_path, pictures(len(times)), times, [20, len(times) - 20])
    join_pieces(pieces, tmp_path / "out.mp4", source)
    given, found = heard(source), heard(tmp_path / "out.mp4")
    assert found[0] == given[0]
    assert abs(found[1] - given[1]) < 0.03 and abs(found[2] - 2.0) < 0.06 and abs(found[3] - TONE) < 3
    _, stamps = read(tmp_path / "out.mp4")
    np.testing.assert_allclose(stamps, times, atol=1e-3)
    with av.open(str(source)) as a, av.open(str(tmp_path / "out.mp4")) as b:
        sizes = [[p.size for p in c.demux(c.streams.audio[0]) if p.size] for c in (a, b)]
    if suffix == "mkv":  # ADTS packets of a transport stream have a header more
        assert sizes[0] == sizes[1]


@pytest.mark.parametrize(
    ("suffix", "codec", "rate", "layout"),
    [
        ("mkv", "pcm_s16le", 44100, "mono"),
        ("mkv", "pcm_s16le", 48000, "stereo"),
        ("avi", "pcm_s16le", 22050, "stereo"),
        ("mkv", "libvorbis", 44100, "stereo"),
        ("mkv", "pcm_s16le", 8000, "mono"),
    ],
)
def test_other_sound_becomes_aac(tmp_path: Path, suffix: str, codec: str, rate: int, layout: str) -> None:
    source = with_sound(tmp_path / f"source.{suffix}", codec, rate=rate, layout=layout)
    pieces = write_pieces(tmp_path, pictures(50), np.arange(50) / 25, [50])
    join_pieces(pieces, tmp_path / "out.mp4", source)
    found, given = heard(tmp_path / "out.mp4"), heard(source)
    assert found[0] == "aac"
    assert abs(found[1] - given[1]) < 0.06 and abs(found[2] - 2.0) < 0.1 and abs(found[3] - TONE) < 3


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])
def test_sound_that_begins_late_still_does(tmp_path: Path, codec: str) -> None:
    source = with_sound(tmp_path / "source.mkv", codec, seconds=1.0, start=0.5)
    pieces = write_pieces(tmp_path, pictures(40), np.arange(40) / 25, [40])
    join_pieces(pieces, tmp_path / "out.mp4", source)
    _, start, length, _ = heard(tmp_path / "out.mp4")
    assert abs(start - 0.5) < 0.06 and abs(length - 1.0) < 0.1


def test_sound_of_a_rate_that_aac_lacks_is_resampled(tmp_path: Path) -> None:
    source = with_sound(tmp_path / "source.mkv", "pcm_s16le", rate=192000)
    pieces = write_pieces(tmp_path, pictures(50), np.arange(50) / 25, [50])
    join_pieces(pieces, tmp_path / "out.mp4", source)
    _, _, length, pitch = heard(tmp_path / "out.mp4")
    assert abs(length - 2.0) < 0.1 and abs(pitch - TONE) < 3


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])
def test_sound_ends_with_the_pictures(tmp_path: Path, codec: str) -> None:
    source = with_sound(tmp_path / "source.mkv", codec, seconds=4.0)
    pieces = write_pieces(tmp_path, pictures(25), np.arange(25) / 25, [25])
    join_pieces(pieces, tmp_path / "out.mp4", source)
    assert heard(tmp_path / "out.mp4")[2] < 1.2


def test_a_video_without_sound_stays_without(tmp_path: Path) -> None:
    source = write_video(tmp_path / "source.mkv", pictures(10), rate=25)
    join_pieces(write_pieces(tmp_path, pictures(10), np.arange(10) / 25, [10]), tmp_path / "out.mp4", source)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert len(container.streams.video) == 1 and not container.streams.audio


def test_an_error_in_the_middle_leaves_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "pieces"
    with pytest.raises(RuntimeError, match="in the middle"), VideoPiece(folder / "a.mp4", RATE) as piece:
        piece.add(pictures(1)[0], 0.0)
        raise RuntimeError("in the middle")
    assert list(folder.iterdir()) == []
    pieces = write_pieces(folder, pictures(4), np.arange(4) / 25, [4])
    pieces[0][0].write_bytes(pieces[0][0].read_bytes()[:600])
    with pytest.raises((OSError, ValueError)):
        join_pieces(pieces, tmp_path / "out" / "out.mp4")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("codec", ["mp2", "aac"])
def test_damaged_sound_is_left_out_and_the_rest_kept(tmp_path: Path, codec: str) -> None:
    """Codec that is encoded again, and one that is copied; among the damage are times far too late."""
    source = with_sound(tmp_path / "source.mkv", codec)
    content = bytearray(source.read_bytes())
    rng, third = np.random.default_rng(0), len(content) // 3
    for place in rng.integers(third, 2 * third, 300):
        content[place] = int(rng.integers(256))
    source.write_bytes(content)
    pieces = write_pieces(tmp_path, pictures(50), np.arange(50) / 25, [50])
    join_pieces(pieces, tmp_path / "out.mp4", source)
    assert len(read(tmp_path / "out.mp4")[0]) == 50 and heard(tmp_path / "out.mp4")[2] > 1.0
