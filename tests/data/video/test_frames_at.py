"""Frames that are sought by their times are those that were decoded in order."""

from pathlib import Path

import numpy as np
import pytest

from fmlfast.data.video.decode import Video
from tests.helpers.videos import smooth, write_video

av = pytest.importorskip("av")


def numbered(count: int) -> list[np.ndarray]:
    """Pictures that differ by far more than what compression loses."""
    background = smooth(np.random.default_rng(0), 48, 96) // 4
    images = []
    for i in range(count):
        image = background.copy()
        image[8:40, 2 * i : 2 * i + 8] = 255
        images.append(image)
    return images


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        ("mkv", "ffv1"),
        ("mp4", "libx264"),
        ("mkv", "libx264"),
        ("mov", "mpeg4"),
        ("avi", "mpeg4"),
        ("ts", "mpeg2video"),
        ("mts", "libx264"),
        ("mpg", "mpeg2video"),
        ("webm", "libvpx"),
        ("flv", "flv"),
        ("gif", "gif"),
    ],
)
def test_frames_at_times_are_those_that_frames_tells(tmp_path: Path, suffix: str, codec: str) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"FFmpeg was built without {codec}")
    path = tmp_path / f"v.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"g": "30"})  # one seek point in 30 frames
        stream.width, stream.height = 96, 48
        stream.pix_fmt = {"ffv1": "yuv444p", "gif": "rgb8"}.get(codec, "yuv420p")
        if codec in ("libx264", "mpeg4", "mpeg2video"):
            stream.codec_context.max_b_frames = 2
        for image in numbered(44):
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=stream.pix_fmt))
            )
        container.mux(stream.encode(None))
    told = [(frame.time, frame.image()) for frame in Video(path).frames()]
    assert len(told) >= 43
    chosen = [0, 1, 2, 7, 29, 30, 31, 40, len(told) - 1]
    found = list(Video(path).frames_at([told[i][0] for i in chosen]))
    assert len(found) == len(chosen)
    for i, frame in zip(chosen, found, strict=True):
        assert abs(frame.time - told[i][0]) < 1e-4
        np.testing.assert_array_equal(frame.image(), told[i][1])


def test_a_turned_video_is_upright_there_too(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", numbered(8), codec="mpeg4", turned=90)
    told = [(frame.time, frame.image()) for frame in Video(path).frames()]
    (found,) = Video(path).frames_at([told[5][0]])
    assert found.image().shape == (96, 48, 3)
    np.testing.assert_array_equal(found.image(), told[5][1])


def test_a_time_behind_the_end_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mkv", numbered(5))
    with pytest.raises(ValueError, match=r"v\.mkv: no frame at 9\.000 s"):
        list(Video(path).frames_at([0.0, 9.0]))


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "avi"])
def test_rate_and_number_of_frames_are_told_without_decoding(tmp_path: Path, suffix: str) -> None:
    path = write_video(tmp_path / f"v.{suffix}", numbered(24), codec="mpeg4", rate=12)
    rate, count = Video(path).rate_and_count()
    assert float(rate) == pytest.approx(12, rel=1e-3) and count == 24


def test_times_begin_at_the_start_of_the_video_where_its_stamps_do_not(tmp_path: Path) -> None:
    if "mpeg2video" not in av.codecs_available:
        pytest.skip("FFmpeg was built without mpeg2video")
    path = write_video(tmp_path / "v.mpg", numbered(10), codec="mpeg2video", rate=25)
    assert next(iter(Video(path).frames())).time == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("suffix", ["avi", "mp4", "ts"])
def test_times_rise_where_frames_are_stored_in_another_order(tmp_path: Path, suffix: str) -> None:
    if "libx264" not in av.codecs_available:
        pytest.skip("FFmpeg was built without libx264")
    path = write_video(tmp_path / f"v.{suffix}", numbered(30), codec="libx264", rate=25)  # with B-frames by default
    times = [frame.time for frame in Video(path).frames()]
    assert len(times) == 30 and (np.diff(times) > 0).all()
