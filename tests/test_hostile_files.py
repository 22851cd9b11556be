"""Files made to exhaust memory, to hang, or to run what they hold are refused by name."""

import io
import os
import zipfile
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fmlfast.cli.info import describe
from fmlfast.common.arguments import check_whole
from fmlfast.common.stored_arrays import read_arrays, read_tensors
from fmlfast.common.text_files import MOST_JSON, parse_json, read_json, read_text
from fmlfast.common.typed import of_values
from fmlfast.data.crop import shrunk_image
from fmlfast.data.detector_model import check_published
from fmlfast.data.tar_files import read_members
from fmlfast.data.video.clips import ClipRecord
from fmlfast.data.video.decode import Video, _square_width
from fmlfast.evaluation.scans.readers import read_landmarks, read_points
from fmlfast.mesh_io import read_obj
from fmlfast.reconstruction.inputs import expand_folders, read_image
from fmlfast.reconstruction.pipeline import reconstruct
from fmlfast.reconstruction.result import Reconstruction
from fmlfast.reconstruction.track.source import VideoFacts
from tests.helpers.stored_examples import make_result
from tests.helpers.videos import write_video

DEEP = "[" * 100_000 + "]" * 100_000

# -------------------------------------------------------------------------------------------------- text, JSON, types


JSON = {"deep": DEEP, "deep objects": '{"a": ' * 5000, "digits": '{"a": 1' + "0" * 5000 + "}"}
JSON |= {"list": "[1]", "cut": "{", "mark": "\ufeff[]", "number": "7"}


@pytest.mark.parametrize("text", JSON.values(), ids=JSON)
def test_json_that_is_none_or_too_much_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.json: damaged"):
        read_json(tmp_path / "a.json")


def test_text_is_utf8_of_limited_size(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffé\r\n".encode())
    assert read_text(path) == "é\r\n"
    for payload in (b"\xff\xfe\0a", "é".encode("latin-1")):
        path.write_bytes(payload)
        with pytest.raises(ValueError, match=r"a\.txt: damaged, or no UTF-8"):
            read_text(path)
    path.write_bytes(b"a" * 11)
    with pytest.raises(ValueError, match=r"a\.txt: damaged, or not what it seems"):
        read_text(path, 10)
    with pytest.raises(ValueError, match="log: damaged, or not what it seems"):
        parse_json(" " * (MOST_JSON + 1), "log")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"looked_at": "5"}, "looked_at must be int, not '5'"),
        ({"looked_at": True}, "looked_at must be int"),
        ({"start": "0"}, "start must be float"),
        ({"rejected": {"small": "x"}}, "rejected must be dict"),
        ({"key": 5}, r"key must be str \| None"),
        ({"more": 1}, "ClipRecord has no 'more'"),
    ],
)
def test_stored_values_have_the_types_of_their_fields(change: dict[str, Any], message: str) -> None:
    good = {"subject": "a", "start": 0, "end": 1.5, "looked_at": 3, "rejected": {"small": 1}, "key": None}
    assert of_values(ClipRecord, good) == ClipRecord(**good)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=message):
        of_values(ClipRecord, good | change)
    with pytest.raises(ValueError, match="incomplete"):
        of_values(ClipRecord, {"subject": "a"})
    with pytest.raises(ValueError, match="must be an object"):
        of_values(ClipRecord, [1])


@pytest.mark.parametrize(
    ("name", "value"),
    [("refine", 1.5), ("refine", "3"), ("refine", -1), ("face", "0"), ("face", -1), ("frames", 0), ("frames", "8"),
     ("frames", None), ("texture", 64.0), ("texture", "64")],
)  # fmt: skip
def test_arguments_are_checked_before_the_work(name: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(*_: object) -> None:
        raise RuntimeError("the work has begun")

    monkeypatch.setattr("fmlfast.reconstruction.pipeline.FML.load", work)
    with pytest.raises(ValueError, match=rf"^{name} must be"):
        reconstruct(np.zeros((64, 64, 3), np.uint8), **{name: value})  # pyright: ignore[reportArgumentType]
    check_whole("steps", np.int64(3), 3)


# ---------------------------------------------------------------------------------------------------- arrays, pictures


def npy(shape: tuple[int, ...]) -> bytes:
    """The header of an array of floats, with 8 bytes of data."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return buffer.getvalue() + bytes(8)


@pytest.mark.parametrize("shape", [(2**40,), (2**62, 2**62), (-1,), (2**20, 2**20, 0, 2**40)])
def test_an_array_is_no_larger_than_its_file(shape: tuple[int, ...], tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", npy(shape))
    try:
        assert read_arrays(tmp_path / "a.npz")["a"].size == 0
    except ValueError as error:
        assert "a.npz: damaged" in str(error)


def test_archives_unpack_to_a_limited_size_without_pickles(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.zeros(1000))
    assert read_arrays(path)["a"].shape == (1000,)
    with pytest.raises(ValueError, match=r"a\.npz: damaged.*when unpacked"):
        read_arrays(path, 1000)
    np.savez(path, a=np.array([{"x": 1}]))
    with pytest.raises(ValueError, match=r"a\.npz: damaged"):
        read_arrays(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"no array")
    with pytest.raises(ValueError, match=r"a\.npz: damaged"):
        read_arrays(path)


@pytest.mark.parametrize("header", [b"\xff" * 8, (2**40).to_bytes(8, "little"), (2).to_bytes(8, "little") + b"[]"])
def test_a_header_of_safetensors_tells_no_more_than_there_is(header: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(header + bytes(40))
    with pytest.raises(ValueError, match=r"a\.safetensors: damaged"):
        read_tensors(tmp_path / "a.safetensors")


def test_a_small_file_of_a_huge_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(path)
    assert path.stat().st_size < 100_000
    with pytest.raises(ValueError, match=r"bomb\.png"):
        read_image(path)
    make_result().save(tmp_path / "out", meshes=False, pictures=False)
    (tmp_path / "out" / "texture.png").write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match="out is damaged"):
        Reconstruction.load(tmp_path / "out")


def test_what_is_given_a_margin_is_small_enough() -> None:
    image = np.zeros((64, 20_000, 3), np.uint8)
    image[:, 10_000:] = 200
    small = shrunk_image(image, 2048)
    assert small.shape == (7, 2048, 3) and small[3, 100, 0] == 0 and small[3, 2000, 0] == 200
    assert shrunk_image(image, 20_000) is image


def test_a_scan_that_repeats_its_beginning_takes_no_time_squared(tmp_path: Path) -> None:
    path = tmp_path / "a.wrl"
    path.write_text("Coordinate{point[" * 200_000)  # a regular expression that runs to the end from each takes hours
    with pytest.raises(ValueError, match=r"a\.wrl: no `Coordinate"):
        read_points(path)


def test_a_model_of_the_face_detector_is_the_published_one(tmp_path: Path) -> None:
    for payload in (b"", b"PK\3\4" + bytes(5000), b"garbage"):
        (tmp_path / "a.task").write_bytes(payload)
        with pytest.raises(ValueError, match=r"a\.task is no face landmark model of MediaPipe, or damaged"):
            check_published(tmp_path / "a.task")


def test_a_picture_that_is_a_program_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n%%EndComments\n(out) (w) file closefile\n%%EOF\n"
    )
    with pytest.raises(ValueError, match=r"a\.png: .*PostScript is a program, which is not run"):
        read_image(path)
    path.rename(tmp_path / "a.eps")
    with pytest.raises(ValueError, match="no photos in this folder"):
        expand_folders([tmp_path])


@pytest.mark.parametrize(("aspect", "width"), [((4, 3), 107), ((1, 1), 80), ((65_535, 1), 80), ((1, 65_535), 80)])
def test_pixels_of_impossible_shape_are_square(aspect: tuple[int, int], width: int) -> None:
    stream = SimpleNamespace(sample_aspect_ratio=Fraction(*aspect))
    assert _square_width(SimpleNamespace(width=80), stream) == width


def test_frames_of_videos_have_a_limited_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [np.full((64, 80, 3), 90, np.uint8)] * 2
    path = write_video(tmp_path / "a.mkv", frames)
    monkeypatch.setattr("fmlfast.data.video.decode.MOST_PIXELS", 64 * 80 - 1)
    video = Video(path)
    assert list(video.frames()) == [] and "damaged packets" in video.trouble
    with pytest.raises(ValueError, match=r"a\.mkv: has no frame"):
        VideoFacts.of(path)


@pytest.mark.parametrize(
    ("member", "kind"),
    [(b"\x93NUMPY\1\0\x10\0{'descr': (('<f8\n", zipfile.ZIP_STORED), (bytes(40), zipfile.ZIP_LZMA)],
    ids=["a bracket that never closes", "no LZMA"],
)
def test_whatever_is_wrong_in_an_archive_is_one_error(member: bytes, kind: int, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", member)
    stored = path.read_bytes()
    for signature, at in ((b"PK\3\4", 8), (b"PK\1\2", 10)):  # the kind of compression, told twice
        place = stored.index(signature) + at
        stored = stored[:place] + kind.to_bytes(2, "little") + stored[place + 2 :]
    path.write_bytes(stored)
    with pytest.raises(ValueError, match=r"a\.npz: damaged, or no npz file"):
        read_arrays(path)


def test_a_picture_makes_room_for_no_more_than_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    make_result().save(tmp_path / "out", meshes=False, pictures=False)
    path, photo = tmp_path / "out" / "texture.png", tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    stored = bytearray(path.read_bytes())
    at = stored.index(b"IDAT") - 4
    stored[at : at + 4] = b"\x7f\xff\xff\xff"  # bytes of pixels that follow
    for damaged in (path, photo):
        damaged.write_bytes(stored)
    size = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (size + 2**30, before[1]))
    try:
        for read in (lambda: Reconstruction.load(tmp_path / "out"), lambda: read_image(photo)):
            with suppress(ValueError):
                read()
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
    monkeypatch.setattr("fmlfast.common.pictures.MOST_PICTURE", 1000)
    with pytest.raises(ValueError, match=r"photo\.png: .*save a smaller copy"):
        read_image(photo)


def test_streams_of_unknown_codecs_are_refused(tmp_path: Path) -> None:
    frames = [np.full((64, 80, 3), 90, np.uint8)] * 2
    path = write_video(tmp_path / "a.mkv", frames)
    path.write_bytes(path.read_bytes().replace(b"V_FFV1", b"V_WHAT"))
    with pytest.raises(ValueError, match=r"a\.mkv: has a video stream of an unknown codec"):
        VideoFacts.of(path)
    with pytest.raises(ValueError, match=r"a\.mkv: has a video stream of an unknown codec"):
        describe(path)


READ_WHOLE: dict[str, Callable[[Path], object]] = {
    "text": read_text,
    "tensors": read_tensors,
    "arrays": read_arrays,
    "photo": read_image,
    "video": VideoFacts.of,
    "clips": lambda path: list(read_members(path)),
    "OBJ": read_obj,
    "scan": read_points,
    "landmarks": lambda path: read_landmarks(path, np.zeros((10, 3))),
}


@pytest.mark.parametrize("name", READ_WHOLE)
def test_pipes_devices_and_folders_are_no_files(name: str, tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo(tmp_path / "pipe.obj")  # would be waited for
    (tmp_path / "zero.obj").symlink_to("/dev/zero")  # never ends
    (tmp_path / "folder.obj").mkdir()
    for path in tmp_path.iterdir():
        with pytest.raises(ValueError, match=rf"{path.name} is a (pipe or device; copy|folder; name a file)"):
            READ_WHOLE[name](path)
