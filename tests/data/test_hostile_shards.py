"""Shards made to exhaust memory or to hang are refused, and every flipped bit in a sample is found."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fmlfast.data.shards import list_clips, read_clip, read_truth
from fmlfast.data.tar_files import read_members
from tests.helpers.stored_examples import shard, truth

DEEP = "[" * 100_000 + "]" * 100_000


def signed(header: bytes) -> bytes:
    """A tar header with the right sum."""
    header = header[:148] + b" " * 8 + header[156:512]
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def last_header(path: Path) -> int:
    with tarfile.open(path) as tar:
        return tar.getmembers()[-1].offset


def tell(path: Path, at: int, place: int, value: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[at + place : at + place + len(value)] = value
    data[at : at + 512] = signed(bytes(data[at : at + 512]))
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (124, b"\xff" + (2**88 - 512).to_bytes(11, "big")),  # -512 bytes: tarfile reads this header for ever
        (124, b"\x80" + (2**60).to_bytes(11, "big")),
        (124, b"77777777777\0"),
        (124, b"not octal!!\0"),
        (156, b"L"),  # a long name of as many bytes as the file has
        (156, b"S"),  # a sparse file
        (156, b"x"),
        (156, b"2"),
        (156, b"5"),
    ],
)
def test_headers_of_shards_tell_no_more_than_there_is(place: int, value: bytes, tmp_path: Path) -> None:
    path = shard(tmp_path)
    tell(path, last_header(path), place, value)
    with pytest.raises(ValueError, match=r"train-000000\.tar"):
        list_clips(tmp_path, "train")


def members(path: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(path) as tar:
        return [(info.name, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]


def test_every_flipped_bit_in_a_sample_is_found(tmp_path: Path) -> None:
    path, rng = shard(tmp_path), np.random.default_rng(0)
    refs, whole = list_clips(tmp_path, "train"), path.read_bytes()
    spans = [span for span in (*refs[1].images, refs[1].dense, refs[1].json) if span]
    for span in spans:
        for at in (span.offset + rng.integers(0, span.size, 5)).tolist():
            damaged = bytearray(whole)
            damaged[at] ^= 1 << int(rng.integers(8))
            path.write_bytes(damaged)
            assert read_clip(refs[0]).key == "a-1"
            with pytest.raises(ValueError, match=r"train-000000.tar: sample b-2: .*\(checksum\)"):
                read_clip(list_clips(tmp_path, "train")[1])
    path = truth(tmp_path)
    damaged = bytearray(path.read_bytes())
    ((_, _, span),) = read_members(path)
    damaged[span.offset + span.size - 5] ^= 4  # in the numbers, which safetensors does not check
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"train-truth-000000.tar: sample a-1: its truth is damaged \(checksum\)"):
        dict(read_truth(tmp_path, "train"))


def test_shards_without_checksums_stay_readable(tmp_path: Path) -> None:
    path = shard(tmp_path)
    expected = read_clip(list_clips(tmp_path, "train")[0])
    stored = members(path)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, payload in stored:
            info = tarfile.TarInfo(name)
            info.size = len(payload)
            tar.addfile(info, io.BytesIO(payload))
    ref = list_clips(tmp_path, "train")[0]
    assert ref.json.crc32 is None
    np.testing.assert_array_equal(read_clip(ref).landmarks, expected.landmarks)


@pytest.mark.parametrize("changes", [{"size": 100_000}, {"landmarks": "@"}, {"size": 10**400}])
def test_json_of_a_clip_that_asks_for_too_much_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    path = shard(tmp_path)
    stored = members(path)
    record = json.dumps(json.loads(stored[-1][1]) | changes).replace('"@"', DEEP)
    with tarfile.open(path, "w") as tar:
        for name, payload in [*stored[:-1], (stored[-1][0], record.encode())]:
            info = tarfile.TarInfo(name)
            info.size = len(payload)
            tar.addfile(info, io.BytesIO(payload))
    with pytest.raises(ValueError, match=r"train-000000.tar: sample b-2"):
        read_clip(list_clips(tmp_path, "train")[1])
