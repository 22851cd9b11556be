import multiprocessing
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from fmlfast.data.frames import ClipTensors, resize_clip
from fmlfast.data.loader import ClipDataset
from fmlfast.data.pixel_cache import FORMAT, cache_shards, open_cached
from fmlfast.data.shards import ShardWriter, list_clips, read_clip, write_meta


@pytest.fixture
def folder(synthetic_folder: Path, tmp_path: Path) -> Path:
    """A data set of one's own: six clips of three frames in three shards."""
    folder = tmp_path / "clips"
    write_meta(folder, {})
    with ShardWriter(folder, "train", clips_per_shard=2) as writer:
        for ref in list_clips(synthetic_folder, "train"):
            writer.add(read_clip(ref).part(0, 3))
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "decoded" / "33px").iterdir())}


def test_clips_come_back_as_they_were(folder: Path) -> None:
    clips = ClipDataset(folder, "train", 33, 10**9)
    assert sorted(files(folder)) == [f"train-{i:06d}.safetensors" for i in range(3)]
    for index, ref in enumerate(list_clips(folder, "train")):
        expected = ClipTensors.of(resize_clip(read_clip(ref), 33))
        for name, value in vars(expected).items():
            assert torch.equal(getattr(clips[index], name), value), name


def test_made_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ClipDataset(folder, "train", 33, 10**9)
    times = [path.stat().st_mtime_ns for path in folder.glob("decoded/33px/*")]
    assert "decoding clips to 33 px" in capsys.readouterr().err
    ClipDataset(folder, "train", 33, 10**9)
    assert [path.stat().st_mtime_ns for path in folder.glob("decoded/33px/*")] == times
    assert capsys.readouterr().err == ""


def test_only_what_goes_into_the_budget(folder: Path) -> None:
    one = 6 * (33 * 33 * 3 + 5319 * 4)
    clips = ClipDataset(folder, "train", 33, 2 * one + one // 2)
    assert sorted(files(folder)) == ["train-000000.safetensors", "train-000001.safetensors"]
    assert len(clips) == 6
    last = resize_clip(read_clip(list_clips(folder, "train")[5]), 33)
    assert np.array_equal(clips[5].landmarks, last.landmarks)
    ClipDataset(folder, "train", 33, 2 * one + one // 2)  # what is there counts
    assert len(files(folder)) == 2
    ClipDataset(folder, "train", 33, 4 * one)
    assert len(files(folder)) == 3


@pytest.mark.parametrize(
    "damage", ["shard changed", "cut", "middle missing", "longer", "empty", "header", "another format"]
)
def test_stale_and_damaged_files_are_made_anew(folder: Path, damage: str) -> None:
    ClipDataset(folder, "train", 33, 10**9)
    before = files(folder)
    shard, path = folder / "train-000001.tar", folder / "decoded/33px/train-000001.safetensors"
    whole = path.read_bytes()
    if damage == "shard changed":
        shutil.copy(folder / "train-000002.tar", folder / "other.tar")
        shard.unlink()
        (folder / "train-000002.tar").rename(shard)
        os.utime(shard, ns=(0, 10**18))
    elif damage == "another format":
        path.write_bytes(whole.replace(rf"\"format\": {FORMAT}".encode(), rb"\"format\": 9"))
    else:
        path.write_bytes(
            {
                "cut": whole[:-500],
                "middle missing": whole[:1000] + whole[2000:],
                "longer": whole + bytes(8),
                "empty": b"",
                "header": whole[:8] + b"x" * 8 + whole[16:],
            }[damage]
        )
    assert open_cached(shard, 33) is None
    clips = ClipDataset(folder, "train", 33, 10**9)
    assert torch.equal(
        clips[3].images, ClipTensors.of(resize_clip(read_clip(list_clips(folder, "train")[3]), 33)).images
    )
    assert open_cached(shard, 33) is not None
    if damage != "shard changed":
        assert files(folder) == before


def test_a_folder_that_cannot_be_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system", str(folder))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        clips = ClipDataset(folder, "train", 33, 10**9)
    assert "warning: not all decoded clips can be kept" in capsys.readouterr().err
    assert len(clips) == 6 and clips[0].images.shape == (3, 3, 33, 33)


def test_a_disk_that_is_full(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr("fmlfast.common.tensor_file.save_file", refuse)
    clips = ClipDataset(folder, "train", 33, 10**9)
    error = capsys.readouterr().err
    assert "warning: not all decoded clips can be kept" in error and "No space left on device" in error
    assert not files(folder) and len(clips) == 6 and clips[0].images.shape == (3, 3, 33, 33)


def test_who_may_read_the_shard_may_read_its_pixels(folder: Path) -> None:
    for mode in (0o644, 0o640):
        (folder / "train-000000.tar").chmod(mode)
        shutil.rmtree(folder / "decoded", ignore_errors=True)
        ClipDataset(folder, "train", 33, 10**9)
        assert (folder / "decoded/33px/train-000000.safetensors").stat().st_mode & 0o777 == mode


def test_a_disk_that_would_be_filled(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 30_000))  # type: ignore[attr-defined]
    clips = ClipDataset(folder, "train", 33, 10**9)
    assert "over half of the disk's free room" in capsys.readouterr().err
    assert not files(folder) and len(clips) == 6


def decode_all(folder: Path) -> None:
    shards = [
        (path, [r for r in list_clips(folder, "train") if r.shard == path]) for path in sorted(folder.glob("*.tar"))
    ]
    cache_shards(shards, 33)


def test_two_processes_at_once(folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=decode_all, args=(folder,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    together = files(folder)
    assert sorted(together) == [f"train-{i:06d}.safetensors" for i in range(3)]
    shutil.rmtree(folder / "decoded")
    decode_all(folder)
    assert files(folder) == together
    times = [path.stat().st_mtime_ns for path in folder.glob("decoded/33px/*")]
    decode_all(folder)  # as a process does that waited for another
    assert [path.stat().st_mtime_ns for path in folder.glob("decoded/33px/*")] == times


def test_it_travels_to_other_processes_without_its_pixels(folder: Path) -> None:
    clips = ClipDataset(folder, "train", 33, 10**9)
    expected = clips[4].images
    packed = pickle.dumps(clips)
    assert len(packed) < 5000
    assert torch.equal(pickle.loads(packed)[4].images, expected)


def test_a_flipped_bit_of_a_clip_is_found_when_it_is_first_read(folder: Path) -> None:
    clips = ClipDataset(folder, "train", 33, 10**9)
    path = folder / "decoded/33px/train-000001.safetensors"
    whole, first, second = path.read_bytes(), clips[2].images.clone(), clips[3].images.clone()
    at = whole.index(second.numpy().tobytes()) + second.numel() // 2
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    damaged = ClipDataset(folder, "train", 33, 10**9)
    assert torch.equal(damaged[2].images, first)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"train-000001\.safetensors: clip 1 is damaged \(checksum\); remove"):
            damaged[3]
    path.unlink()
    assert torch.equal(ClipDataset(folder, "train", 33, 10**9)[3].images, second)
