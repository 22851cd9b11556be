"""Shards: what is written is read back, nothing half-written is visible, everything tampered with is found."""

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fmlfast.data import shards
from fmlfast.data.shards import Clip, ShardWriter, TruthWriter, list_clips, list_splits, read_clip, read_truth


def make_clip(rng: np.random.Generator, key: str, frames: int = 3, size: int = 33) -> Clip:
    """A clip with smooth random images (JPEG keeps them) and random numbers everywhere else."""
    corners = rng.uniform(0, 255, (frames, 2, 2, 3))
    t = np.linspace(0, 1, size)
    weights = np.stack([1 - t, t], axis=1)
    images = np.einsum("yi,xj,mijc->myxc", weights, weights, corners).round().astype(np.uint8)
    Ks = np.zeros((frames, 3, 3), np.float32)
    Ks[:, (0, 1), (0, 1)] = rng.uniform(50, 500, (frames, 1))
    Ks[:, :2, 2] = rng.uniform(0, size, (frames, 2))
    Ks[:, 2, 2] = 1
    crop_to_source = np.zeros((frames, 2, 3), np.float32)
    crop_to_source[:, (0, 1), (0, 1)] = rng.uniform(0.5, 3, (frames, 1))
    crop_to_source[:, :, 2] = rng.uniform(-100, 1000, (frames, 2))
    return Clip(
        key=key,
        subject=f"person {rng.integers(9)}",
        source="folder/clip é.mp4",
        images=images,
        landmarks=rng.uniform(-3, size + 3, (frames, 68, 2)).astype(np.float32),
        confidence=rng.uniform(0, 1, (frames, 68)).astype(np.float32),
        Ks=Ks,
        crop_to_source=crop_to_source,
        times=np.sort(rng.uniform(0, 1000, frames)).astype(np.float32),
        focal_source=str(rng.choice(["known", "assumed"])),
    )


def write(folder: Path, clips: list[Clip], **options: int) -> None:
    with ShardWriter(folder, "train", **options) as writer:
        for clip in clips:
            writer.add(clip)


def test_roundtrip(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    clips = [make_clip(rng, f"clip-{i}#{i}", frames=1 + i % 4, size=17 + 6 * i) for i in range(7)]
    write(tmp_path, clips, clips_per_shard=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"train-00000{i}.tar" for i in range(3)]
    assert list_splits(tmp_path) == ["train"]
    refs = list_clips(tmp_path, "train")
    assert [ref.key for ref in refs] == [clip.key for clip in clips]
    for clip, ref in zip(clips, refs, strict=True):
        got = read_clip(ref)
        for name in ("key", "subject", "source", "scheme", "focal_source", "frames"):
            assert getattr(got, name) == getattr(clip, name)
        for name in ("landmarks", "confidence", "Ks", "crop_to_source", "times"):
            np.testing.assert_array_equal(getattr(got, name), getattr(clip, name))
        assert np.abs(got.images.astype(int) - clip.images).max() <= 6  # JPEG, no colour subsampling


def test_equal_clips_give_equal_bytes_and_numbering_continues(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write(tmp_path / folder, [make_clip(np.random.default_rng(3), "x")])
    first = tmp_path / "a" / "train-000000.tar"
    assert first.read_bytes() == (tmp_path / "b" / "train-000000.tar").read_bytes()
    write(tmp_path / "a", [make_clip(np.random.default_rng(4), "y")])
    assert [ref.key for ref in list_clips(tmp_path / "a", "train")] == ["x", "y"]
    assert [ref.shard.name for ref in list_clips(tmp_path / "a", "train")] == ["train-000000.tar", "train-000001.tar"]


def test_an_exception_leaves_finished_shards_only(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    with pytest.raises(RuntimeError, match="stop"), ShardWriter(tmp_path, "train", clips_per_shard=2) as writer:
        for i in range(3):
            writer.add(make_clip(rng, f"c{i}"))
        assert writer.pending == 1
        raise RuntimeError("stop")
    assert [path.name for path in tmp_path.iterdir()] == ["train-000000.tar"]
    assert len(list_clips(tmp_path, "train")) == 2


def test_a_full_disk_in_the_middle_of_a_sample_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = make_clip(np.random.default_rng(2), "c")
    original, calls = tarfile.TarFile.addfile, []

    def addfile(self: tarfile.TarFile, info: tarfile.TarInfo, fileobj: io.BytesIO) -> None:
        calls.append(info.name)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        original(self, info, fileobj)

    monkeypatch.setattr(tarfile.TarFile, "addfile", addfile)
    with ShardWriter(tmp_path, "train") as writer:
        with pytest.raises(OSError, match="No space"):
            writer.add(clip)
        assert list(tmp_path.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


def test_keys_are_unique(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    with pytest.raises(ValueError, match="written before"):
        write(tmp_path, [make_clip(rng, "same"), make_clip(rng, "same")])
    write(tmp_path, [make_clip(rng, "same")])
    write(tmp_path, [make_clip(rng, "same")])
    with pytest.raises(ValueError, match="train-000001.tar: sample same"):
        list_clips(tmp_path, "train")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("key", "../evil", "key"),
        ("key", "a.b", "key"),
        ("subject", "", "subject"),
        ("scheme", "wflw98", "scheme"),
        ("focal_source", "magic", "focal_source"),
        ("images", np.zeros((3, 33, 32, 3), np.uint8), r"\[M, S, S, 3\]"),
        ("images", np.zeros((3, 33, 33, 3), np.float32), "uint8"),
        ("images", np.zeros((2, 33, 33, 3), np.uint8), "landmarks"),
        ("landmarks", np.zeros((3, 66, 2), np.float32), "landmarks"),
        ("landmarks", np.full((3, 68, 2), np.nan, np.float32), "NaN"),
        ("landmarks", np.full((3, 68, 2), 99, np.float32), "outside"),
        ("landmarks", np.zeros((3, 68, 2), np.float64), "float32"),
        ("confidence", np.full((3, 68), 1.5, np.float32), "confidence"),
        ("Ks", np.zeros((3, 3, 3), np.float32), "Ks"),
        ("Ks", np.ones((3, 3, 3), np.float32), "Ks"),
        ("crop_to_source", np.zeros((3, 2, 3), np.float32), "inverted"),
        ("times", np.zeros((3, 1), np.float32), "times"),
    ],
)
def test_a_wrong_clip_cannot_be_made(field: str, value: object, message: str) -> None:
    clip = make_clip(np.random.default_rng(6), "c")
    with pytest.raises(ValueError, match=message):
        replace(clip, **{field: value})


Members = list[tuple[str, bytes]]


def tamper(path: Path, change: Callable[[Members], Members]) -> None:
    """Rewrites a shard with its members changed."""
    with tarfile.open(path) as tar:
        members = [(info.name, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
    with tarfile.open(path, "w") as tar:
        for name, payload in change(members):
            info = tarfile.TarInfo(name)
            info.size = len(payload)
            tar.addfile(info, io.BytesIO(payload))


def in_json(**changes: object) -> Callable[[Members], Members]:
    """A change of the first sample's JSON; None removes a field."""

    def change(members: Members) -> Members:
        name, payload = members[2]
        record = {**json.loads(payload), **changes}
        record = {key: value for key, value in record.items() if value is not None}
        return [*members[:2], (name, json.dumps(record).encode()), *members[3:]]

    return change


def other_size(members: Members) -> Members:
    jpeg = shards._encode(np.zeros((40, 40, 3), np.uint8), 90)
    record = json.loads(members[2][1])
    record["crc32"][0] = shards.zlib.crc32(jpeg)
    return [(members[0][0], jpeg), members[1], (members[2][0], json.dumps(record).encode()), *members[3:]]


def not_jpeg(members: Members) -> Members:
    record = json.loads(members[2][1])
    record["crc32"][0] = shards.zlib.crc32(b"GIF89a")
    return [(members[0][0], b"GIF89a"), members[1], (members[2][0], json.dumps(record).encode()), *members[3:]]


NAN = float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: [*m[:1], *m[2:]], "the JSON differs"),
        (lambda m: [*m[:2], *m[3:]], "its JSON is missing"),
        (lambda m: m[:-1], "its JSON is missing"),
        (lambda m: [*m[:2], m[2], m[5], m[3], m[4]], "no images"),
        (lambda m: [("../../etc/passwd", b"x"), *m], "unexpected entry"),
        (lambda m: [("/abs.json", b"x"), *m], "unexpected entry"),
        (lambda m: [("a.txt", b"x"), *m], "unexpected entry"),
        (lambda m: [("first.safetensors", b"x"), *m], "unexpected file"),
        (lambda m: [m[1], m[0], *m[2:]], "unexpected file"),
        (lambda m: [(m[0][0], m[0][1][:-9] + b"tampered!"), *m[1:]], "checksum"),
        (lambda m: [*m[:2], (m[2][0], b"{not json"), *m[3:]], "sample first"),
        (lambda m: [*m[:2], (m[2][0], b"[1]"), *m[3:]], "not an object"),
        (lambda m: [*m[:2], (m[2][0], b"\xff\xfe"), *m[3:]], "sample first"),
        (lambda m: [*m[:2], (m[2][0], m[5][1]), *m[3:]], "belongs to"),
        (other_size, "the JSON says 33"),
        (not_jpeg, "sample first"),
        (in_json(landmarks=None), "'landmarks' is missing"),
        (in_json(landmarks=[[[NAN, 0.0]] * 68] * 2), "NaN"),
        (in_json(landmarks=[[[1.0, 0.0]] * 68, [[1.0, 0.0]] * 67]), "sample first"),
        (in_json(landmarks=[[[1.0, 0.0]] * 68]), "landmarks must be"),
        (in_json(landmarks="many"), "sample first"),
        (in_json(landmarks=[[[1e300, 0.0]] * 68] * 2), "landmarks"),
        (in_json(Ks=[[1, 0, 0], [0, 1, 0], [0, 0, 1]]), "Ks must be"),
        (in_json(Ks={"f": 1}), "sample first"),
        (in_json(scheme="wflw98"), "scheme"),
        (in_json(subject=7), "subject"),
        (in_json(size=34), "the JSON says 34"),
        (in_json(size="33"), "size"),
        (in_json(format=2), "format 2"),
        (in_json(crc32=5), "the JSON differs"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_tampering_is_found(tmp_path: Path, change: Callable[[Members], Members], message: str) -> None:
    rng = np.random.default_rng(7)
    write(tmp_path, [make_clip(rng, "first", frames=2), make_clip(rng, "second", frames=2)])
    tamper(tmp_path / "train-000000.tar", change)
    with pytest.raises(ValueError, match=message) as caught:
        for ref in list_clips(tmp_path, "train"):
            read_clip(ref)
    assert "train-000000.tar" in str(caught.value)


def test_every_truncation_is_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    write(tmp_path, [make_clip(rng, f"c{i}", frames=2, size=19) for i in range(3)])
    path = tmp_path / "train-000000.tar"
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 512), len(whole) - 1, len(whole) // 2 + 5]:
        path.write_bytes(whole[:length])
        if any(whole[length:]) or len(whole) - length > 9000:  # the rest, if all zero, is tar's padding
            with pytest.raises(ValueError, match=r"train-000000\.tar"):
                list_clips(tmp_path, "train")


def test_a_damaged_header_is_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    write(tmp_path, [make_clip(rng, f"c{i}", frames=2, size=19) for i in range(3)])
    path = tmp_path / "train-000000.tar"
    ref = list_clips(tmp_path, "train")[1]
    whole = bytearray(path.read_bytes())
    whole[ref.images[0][0] - 512 + 3] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"train-000000\.tar"):
        list_clips(tmp_path, "train")


def test_a_shard_replaced_after_listing_is_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(10)
    write(tmp_path / "a", [make_clip(rng, "c")])
    write(tmp_path / "b", [make_clip(rng, "c")])
    (ref,) = list_clips(tmp_path / "a", "train")
    (tmp_path / "b" / "train-000000.tar").rename(tmp_path / "a" / "train-000000.tar")
    with pytest.raises(ValueError, match="sample c"):
        read_clip(ref)
    ref.shard.unlink()
    with pytest.raises(ValueError, match="sample c"):
        read_clip(ref)


def test_missing_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a folder"):
        list_clips(tmp_path / "none", "train")
    with pytest.raises(ValueError, match="splits found: none"):
        list_clips(tmp_path, "train")
    write(tmp_path, [make_clip(np.random.default_rng(11), "c")])
    with pytest.raises(ValueError, match="splits found: train"):
        list_clips(tmp_path, "val")
    with pytest.raises(ValueError, match="no ground truth"):
        read_truth(tmp_path, "train")
    with pytest.raises(ValueError, match="meta.json"):
        shards.read_meta(tmp_path)
    with pytest.raises(ValueError, match="split"):
        ShardWriter(tmp_path, "../train")


def test_truth_roundtrip_and_tampering(tmp_path: Path) -> None:
    rng = np.random.default_rng(12)
    truth = {
        f"c{i}": {"vertices": rng.normal(size=(11 + i, 3)).astype(np.float32), "expression": rng.uniform(size=(2, 5))}
        for i in range(5)
    }
    with TruthWriter(tmp_path, "val", clips_per_shard=2) as writer:
        for key, arrays in truth.items():
            writer.add(key, arrays)
    got = read_truth(tmp_path, "val")
    assert list(got) == list(truth)
    for key, arrays in truth.items():
        assert set(got[key]) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(got[key][name], array)
    assert list_splits(tmp_path) == []  # truth alone is no split of clips

    path = tmp_path / "val-truth-000001.tar"
    tamper(path, lambda members: [(members[0][0], members[0][1][:-4]), *members[1:]])
    with pytest.raises(ValueError, match="val-truth-000001.tar: sample c2"):
        _ = read_truth(tmp_path, "val")["c2"]
    path.write_bytes(path.read_bytes()[:1536])
    with pytest.raises(ValueError, match="val-truth-000001.tar"):
        read_truth(tmp_path, "val")


def test_meta_roundtrip(tmp_path: Path) -> None:
    meta = {"generator": "test", "seed": 3, "settings": {"size": 8}}
    shards.write_meta(tmp_path / "new", meta)
    assert shards.read_meta(tmp_path / "new") == meta
    (tmp_path / "new" / "meta.json").write_text("[]")
    with pytest.raises(ValueError, match="not a JSON object"):
        shards.read_meta(tmp_path / "new")
