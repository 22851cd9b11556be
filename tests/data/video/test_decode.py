"""Videos as a viewer sees them, and where they are cut."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fmlfast.data.video.decode import CutDetector, Video
from fmlfast.data.video.encode import VideoPiece, join_pieces
from tests.helpers.videos import set_display_matrix, smooth, write_video

av = pytest.importorskip("av")


def read(path: Path) -> tuple[list[np.ndarray], list[float], str]:
    video = Video(path)
    frames = [(frame.image(), frame.time) for frame in video.frames()]
    return [image for image, _ in frames], [time for _, time in frames], video.trouble


def test_frames_and_times(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = [smooth(rng, 46, 62) for _ in range(7)]
    got, times, trouble = read(write_video(tmp_path / "v.mkv", frames, rate=10))
    assert trouble == ""
    np.testing.assert_allclose(times, np.arange(7) / 10, atol=1e-3)
    for expected, image in zip(frames, got, strict=True):
        assert np.abs(image.astype(int) - expected).max() <= 4


@pytest.mark.parametrize("turned", [90, -90, 180])
def test_rotation_is_undone(tmp_path: Path, turned: int) -> None:
    frames = [smooth(np.random.default_rng(1), 48, 64)] * 2
    got, _, _ = read(write_video(tmp_path / "v.mp4", frames, codec="mpeg4", turned=turned))
    expected = np.rot90(frames[0], turned // 90)  # the matrix turns counter-clockwise
    assert got[0].shape == expected.shape
    assert np.abs(got[0].astype(int) - expected).mean() < 8
    assert np.abs(got[0].astype(int) - expected[::-1, ::-1]).mean() > 20


def test_pixels_become_square(tmp_path: Path) -> None:
    frames = [smooth(np.random.default_rng(2), 48, 60)]
    got, _, _ = read(write_video(tmp_path / "v.mp4", frames, codec="mpeg4", aspect=Fraction(4, 3)))
    expected = np.asarray(Image.fromarray(frames[0]).resize((80, 48), Image.Resampling.BICUBIC))
    assert got[0].shape == (48, 80, 3)
    assert np.abs(got[0].astype(int) - expected).mean() < 6


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "noise.mp4").write_bytes(rng.bytes(5000))
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    for name in ("empty.mp4", "noise.mp4", "sound.wav", "missing.mp4"):
        with pytest.raises(ValueError, match="cannot be opened|no video stream"):
            list(Video(tmp_path / name).frames())


def test_a_truncated_video_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    frames = [rng.integers(0, 255, (64, 80, 3), dtype=np.uint8) for _ in range(30)]
    whole = write_video(tmp_path / "v.mp4", frames, codec="mpeg4", movflags="+faststart").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    got, _, trouble = read(tmp_path / "cut.mp4")
    assert 5 < len(got) < 25
    assert trouble
    end = write_video(tmp_path / "w.mp4", frames, codec="mpeg4").read_bytes()  # its index comes last
    (tmp_path / "headless.mp4").write_bytes(end[: len(end) // 2])
    with pytest.raises(ValueError, match="cannot be opened"):
        read(tmp_path / "headless.mp4")


def test_damaged_packets_are_skipped(tmp_path: Path) -> None:
    frames = [smooth(np.random.default_rng(5), 64, 80)] * 40
    path = write_video(tmp_path / "v.mp4", frames, codec="mpeg4", movflags="+faststart")
    payload = bytearray(path.read_bytes())
    start = payload.index(b"mdat") + 8
    length = len(payload) - start
    payload[start + length // 4 : start + length // 2] = bytes(length // 2 - length // 4)
    path.write_bytes(payload)
    got, times, _ = read(path)
    assert len(got) > 10
    assert times == sorted(times)


def panning(rng: np.random.Generator, length: int) -> list[np.ndarray]:
    """A camera that moves over a wide picture, with noise."""
    wide = smooth(rng, 54, 96 + 2 * length)
    views = [wide[:, 2 * i : 2 * i + 96].astype(float) + rng.normal(0, 4, (54, 96, 3)) for i in range(length)]
    return [np.clip(view, 0, 255).astype(np.uint8) for view in views]


def test_cuts_are_found_and_nothing_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    lengths = [20, 3, 31, 12]
    frames = [frame for length in lengths for frame in panning(rng, length)]
    video, detector = Video(write_video(tmp_path / "v.mkv", frames)), CutDetector()
    cuts = [index for index, frame in enumerate(video.frames()) if detector.step(frame.thumbnail())]
    assert cuts == [20, 23, 54]


def test_a_fade_of_the_light_is_no_cut() -> None:
    picture = smooth(np.random.default_rng(7), 27, 48).astype(np.float32)
    detector = CutDetector()
    assert not any(detector.step((picture * level).astype(np.uint8)) for level in np.linspace(1, 0.1, 30))
    assert detector.step(np.full((27, 48, 3), 200, np.uint8))


MIRRORS = {
    "left and right": ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
    "top and bottom": ((1, 0, 0, -1), lambda image: image[::-1]),
    "diagonal": ((0, 1, 1, 0), lambda image: image.swapaxes(0, 1)),
    "other diagonal": ((0, -1, -1, 0), lambda image: image[::-1, ::-1].swapaxes(0, 1)),
    "quarter turn": ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
}


@pytest.mark.parametrize("name", MIRRORS)
def test_mirrors_of_the_display_matrix_are_applied(tmp_path: Path, name: str) -> None:
    matrix, expected = MIRRORS[name]
    frame = smooth(np.random.default_rng(7), 48, 64)
    path = write_video(tmp_path / "v.mp4", [frame] * 2, codec="mpeg4")
    set_display_matrix(path, *matrix)
    got, _, _ = read(path)
    assert got[0].shape == expected(frame).shape
    assert np.abs(got[0].astype(int) - expected(frame)).mean() < 8
    (again,) = Video(path).frames_at([0.0])
    np.testing.assert_array_equal(again.image(), got[0])


@pytest.mark.parametrize("name", ["10:30.mkv", "http:x.mkv", "concat:a|b.mkv", "-y.mkv", "a%03d?b#c.mkv"])
def test_a_name_that_looks_like_an_address_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "v.mkv", [smooth(np.random.default_rng(8), 48, 64)]).rename(tmp_path / name)
    assert len(list(Video(name).frames())) == 1
    with VideoPiece(Path("out") / name.replace(".mkv", ".mp4"), Fraction(25)) as piece:
        piece.add(next(Video(name).frames()).image(), 0.0)
    join_pieces([(Path("out") / name.replace(".mkv", ".mp4"), 0.0)], Path(name).with_suffix(".mp4"), Path(name))
    assert len(list(Video(Path(name).with_suffix(".mp4")).frames())) == 1
