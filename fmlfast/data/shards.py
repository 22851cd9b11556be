"""Prepared clips on disk: webdataset-style tar shards.

A folder holds `meta.json` and, for each split, shards `<split>-000000.tar`, `<split>-000001.tar`, ... A sample is one
clip: `<key>.000.jpg`, `<key>.001.jpg`, ..., and last `<key>.json`. Ground truth of synthetic clips lies beside the
clips in `<split>-truth-000000.tar`, one `<key>.safetensors` a clip. A shard appears whole or not at all, and whatever
is read is checked: every malformed thing raises ValueError naming the file and the sample.
"""

import io
import json
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import safetensors.numpy
from PIL import Image
from safetensors import SafetensorError

from fmlfast._atomic import atomic_path

FORMAT = 1  # of the sample's JSON; raised whenever an old reader would misunderstand it
SCHEME = "ibug68"
LANDMARKS = 68
_MIN_SIZE = 16  # pixels; nothing can be learned from less

_SPLIT = re.compile(r"[a-z][a-z0-9_]*")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_#=-]{0,79}")  # no dot, no slash: keys become file names
_SHARD = re.compile(r"([a-z][a-z0-9_]*)(-truth)?-(\d{6})\.tar")
_MEMBER = re.compile(rf"({_KEY.pattern})\.(\d{{3}}\.jpg|json|safetensors)")


@dataclass(frozen=True)
class Clip:
    """M square face crops of one subject, with everything training needs to know about them.

    key: unique in its split, letters, digits and `_#=-`. subject: who it is; equal subjects share one identity.
    source: where it came from, for people. focal_source: "known", or "assumed" when Ks come from a guess.
    Raises ValueError when any field has a wrong shape, dtype or value.
    """

    key: str
    subject: str
    source: str
    images: np.ndarray  # [M, S, S, 3] uint8 sRGB
    landmarks: np.ndarray  # [M, 68, 2] float32 pixels of the crop, pixel centres at +0.5
    confidence: np.ndarray  # [M, 68] float32 in 0..1
    Ks: np.ndarray  # [M, 3, 3] float32 intrinsics of the crop, pixels
    crop_to_source: np.ndarray  # [M, 2, 3] float32, maps crop pixels to source pixels
    times: np.ndarray  # [M] float32 seconds
    scheme: str = SCHEME
    focal_source: str = "known"

    def __post_init__(self) -> None:
        _require(isinstance(self.key, str) and _KEY.fullmatch(self.key) is not None, f"key {self.key!r} is not allowed")
        for name in ("subject", "source"):
            value = getattr(self, name)
            _require(isinstance(value, str) and value != "", f"{name} must be a non-empty string, got {value!r}")
        _require(self.scheme == SCHEME, f"landmark scheme must be {SCHEME!r}, got {self.scheme!r}")
        _require(self.focal_source in ("known", "assumed"), f"focal_source {self.focal_source!r} is unknown")
        shape = self.images.shape
        _require(self.images.dtype == np.uint8, f"images must be uint8, got {self.images.dtype}")
        _require(
            len(shape) == 4 and 1 <= shape[0] <= 999 and shape[1] == shape[2] >= _MIN_SIZE and shape[3] == 3,
            f"images must be [M, S, S, 3] with 1 <= M <= 999 and S >= {_MIN_SIZE}, got {list(shape)}",
        )
        frames, size = shape[:2]
        for name, tail in _ARRAYS.items():
            array = getattr(self, name)
            _require(array.dtype == np.float32, f"{name} must be float32, got {array.dtype}")
            _require(array.shape == (frames, *tail), f"{name} must be {[frames, *tail]}, got {list(array.shape)}")
            _require(bool(np.isfinite(array).all()), f"{name} holds NaN or infinity")
        inside = (self.landmarks >= -size) & (self.landmarks <= 2 * size)
        _require(bool(inside.all()), "landmarks lie more than a crop's width outside the crop")
        _require(bool(((self.confidence >= 0) & (self.confidence <= 1)).all()), "confidence must lie in 0..1")
        focal = self.Ks[:, (0, 1), (0, 1)]
        fixed = self.Ks[:, (1, 2, 2, 2), (0, 0, 1, 2)] == np.array([0, 0, 0, 1], np.float32)
        _require(bool((focal > 0).all() and fixed.all()), "Ks must be upper triangular with positive focal lengths")
        determinant = np.linalg.det(self.crop_to_source[:, :, :2].astype(np.float64))
        _require(bool((np.abs(determinant) > 1e-12).all()), "crop_to_source cannot be inverted")

    @property
    def frames(self) -> int:
        """M, the number of frames."""
        return self.images.shape[0]


_ARRAYS: dict[str, tuple[int, ...]] = {
    "landmarks": (LANDMARKS, 2),
    "confidence": (LANDMARKS,),
    "Ks": (3, 3),
    "crop_to_source": (2, 3),
    "times": (),
}


@dataclass(frozen=True)
class ClipRef:
    """Where a clip lies in its shard: byte offsets and sizes of its JPEG files and of its JSON."""

    shard: Path
    key: str
    images: tuple[tuple[int, int], ...]
    json: tuple[int, int]


# ------------------------------------------------------------------------------------------------------------ writing


class _TarWriter:
    """Numbered tar files of at most `per_shard` samples each; numbering goes on after the files that exist."""

    def __init__(self, folder: str | Path, split: str, kind: str, per_shard: int) -> None:
        _require(_SPLIT.fullmatch(split) is not None, f"split {split!r} must be lower case letters, digits and '_'")
        _require(per_shard >= 1, f"clips_per_shard must be at least 1, got {per_shard}")
        self.folder = Path(folder)
        self.pending = 0  # samples in the shard under way, not visible yet
        self._stem = f"{split}{kind}"
        self._per_shard = per_shard
        self._stack = ExitStack()
        self._tar: tarfile.TarFile | None = None
        self._keys: set[str] = set()
        paths = _shard_paths(self.folder, split, kind) if self.folder.is_dir() else []
        self._number = 1 + max((int(path.stem[-6:]) for path in paths), default=-1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self.flush()
        else:
            self._stack.__exit__(kind, error, tb)

    def flush(self) -> None:
        """Finishes the shard under way, if any, and makes it visible."""
        if self._tar is not None:
            self._stack.close()
            self._tar, self.pending = None, 0
            self._number += 1

    def _write(self, key: str, members: list[tuple[str, bytes]]) -> None:
        if key in self._keys:
            raise ValueError(f"key {key!r} was written before; keys must be unique in a split")
        try:
            if self._tar is None:
                temporary = self._stack.enter_context(atomic_path(self.folder / f"{self._stem}-{self._number:06d}.tar"))
                tar = tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT)
                self._tar = self._stack.enter_context(tar)
            for name, payload in members:
                info = tarfile.TarInfo(name)  # no owner, no time: equal clips give equal bytes
                info.size = len(payload)
                self._tar.addfile(info, io.BytesIO(payload))
        except BaseException as error:
            self._stack.__exit__(type(error), error, error.__traceback__)  # a torn sample must not become visible
            self._tar, self.pending = None, 0
            raise
        self._keys.add(key)
        self.pending += 1
        if self.pending == self._per_shard:
            self.flush()


class ShardWriter(_TarWriter):
    """Writes clips of one split; use as a context manager.

    A shard becomes visible when it holds `clips_per_shard` clips, at flush(), and at the end of the `with` block. An
    exception drops the shard under way and leaves the finished ones. `pending` counts the clips not yet visible.
    """

    def __init__(self, folder: str | Path, split: str, clips_per_shard: int = 256, quality: int = 92) -> None:
        super().__init__(folder, split, "", clips_per_shard)
        _require(1 <= quality <= 100, f"quality must lie in 1..100, got {quality}")
        self._quality = quality

    def add(self, clip: Clip) -> None:
        """Appends a clip; ValueError when its key was written before."""
        jpegs = [_encode(image, self._quality) for image in clip.images]
        record: dict[str, Any] = {
            "format": FORMAT,
            "key": clip.key,
            "subject": clip.subject,
            "source": clip.source,
            "scheme": clip.scheme,
            "focal_source": clip.focal_source,
            "size": clip.images.shape[1],
            "crc32": [zlib.crc32(jpeg) for jpeg in jpegs],
        }
        for name in _ARRAYS:  # through the shortest decimal form of float32: small, and read back exactly
            record[name] = getattr(clip, name).astype(str).astype(np.float64).tolist()
        members = [(f"{clip.key}.{index:03d}.jpg", jpeg) for index, jpeg in enumerate(jpegs)]
        self._write(clip.key, [*members, (f"{clip.key}.json", json.dumps(record, separators=(",", ":")).encode())])


class TruthWriter(_TarWriter):
    """Writes ground truth of clips beside them; the same rules as ShardWriter."""

    def __init__(self, folder: str | Path, split: str, clips_per_shard: int = 256) -> None:
        super().__init__(folder, split, "-truth", clips_per_shard)

    def add(self, key: str, arrays: dict[str, np.ndarray]) -> None:
        """Appends the arrays that belong to the clip `key`."""
        _require(_KEY.fullmatch(key) is not None, f"key {key!r} is not allowed")
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        self._write(key, [(f"{key}.safetensors", safetensors.numpy.save(contiguous))])


def write_meta(folder: str | Path, meta: dict[str, Any]) -> None:
    """Writes `meta.json` (generator, seed, version, settings, ...) into the folder, atomically."""
    with atomic_path(Path(folder) / "meta.json") as temporary:
        temporary.write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------ reading


def read_meta(folder: str | Path) -> dict[str, Any]:
    """The folder's `meta.json`; ValueError when it is missing or not a JSON object."""
    path = Path(folder) / "meta.json"
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not readable ({error}); is this a folder of prepared clips?") from error
    _require(isinstance(meta, dict), f"{path}: not a JSON object")
    return meta


def list_splits(folder: str | Path) -> list[str]:
    """The splits that have shards in the folder, sorted; ValueError when the folder is missing."""
    folder = Path(folder)
    _require(folder.is_dir(), f"{folder} is not a folder of prepared clips")
    matches = (_SHARD.fullmatch(path.name) for path in folder.iterdir())
    return sorted({match[1] for match in matches if match and not match[2]})


def list_clips(folder: str | Path, split: str) -> list[ClipRef]:
    """References to all clips of a split, in the order of writing; reads tar headers only.

    Raises ValueError when the folder is missing, has no shard of this split, or a shard is damaged.
    """
    folder = Path(folder)
    splits = list_splits(folder)
    _require(split in splits, f"{folder}: no shards {split}-*.tar; splits found: {', '.join(splits) or 'none'}")
    refs: list[ClipRef] = []
    seen: set[str] = set()
    for path in _shard_paths(folder, split, ""):
        images: list[tuple[int, int]] = []
        current: str | None = None
        for key, suffix, span in _members(path):
            _require(current in (None, key), f"{path}: sample {current}: its JSON is missing")
            current = key
            if suffix == "json":
                _require(len(images) > 0, f"{path}: sample {key}: no images before its JSON")
                _require(key not in seen, f"{path}: sample {key}: a sample of this name came before")
                seen.add(key)
                refs.append(ClipRef(path, key, tuple(images), span))
                images, current = [], None
            else:
                _require(suffix == f"{len(images):03d}.jpg", f"{path}: sample {key}: unexpected file {key}.{suffix}")
                images.append(span)
        _require(current is None, f"{path}: sample {current}: its JSON is missing")
    return refs


def read_clip(ref: ClipRef) -> Clip:
    """Reads, decodes and checks one clip; ValueError naming shard and sample when anything about it is wrong."""
    try:
        start = ref.images[0][0]
        with ref.shard.open("rb") as file:  # a sample is contiguous: one read
            file.seek(start)
            block = file.read(ref.json[0] + ref.json[1] - start)
        parts = [block[offset - start : offset - start + size] for offset, size in (*ref.images, ref.json)]
        return _decode_clip(ref.key, parts[:-1], parts[-1])
    except (ValueError, TypeError, KeyError, OverflowError, OSError, Image.DecompressionBombError) as error:
        reason = f"{error} is missing from the JSON" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{ref.shard}: sample {ref.key}: {reason}") from error


class Truth(Mapping[str, dict[str, np.ndarray]]):
    """Ground truth by clip key, read from disk on access."""

    def __init__(self, spans: dict[str, tuple[Path, int, int]]) -> None:
        self._spans = spans

    def __getitem__(self, key: str) -> dict[str, np.ndarray]:
        path, offset, size = self._spans[key]
        with path.open("rb") as file:
            file.seek(offset)
            payload = file.read(size)
        try:
            return safetensors.numpy.load(payload)
        except (SafetensorError, ValueError) as error:
            raise ValueError(f"{path}: sample {key}: damaged safetensors: {error}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._spans)

    def __len__(self) -> int:
        return len(self._spans)


def read_truth(folder: str | Path, split: str) -> Truth:
    """Ground truth of a split: a mapping from clip key to named arrays.

    Raises ValueError when there is none or a shard is damaged.
    """
    folder = Path(folder)
    paths = _shard_paths(folder, split, "-truth") if folder.is_dir() else []
    _require(len(paths) > 0, f"{folder}: no ground truth {split}-truth-*.tar; only synthetic clips have it")
    spans: dict[str, tuple[Path, int, int]] = {}
    for path in paths:
        for key, suffix, (offset, size) in _members(path):
            _require(suffix == "safetensors", f"{path}: sample {key}: unexpected file {key}.{suffix}")
            _require(key not in spans, f"{path}: sample {key}: a sample of this name came before")
            spans[key] = (path, offset, size)
    return Truth(spans)


# ------------------------------------------------------------------------------------------------------------ helpers


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _shard_paths(folder: Path, split: str, kind: str) -> list[Path]:
    matches = ((path, _SHARD.fullmatch(path.name)) for path in folder.iterdir())
    return sorted(path for path, match in matches if match and match[1] == split and (match[2] or "") == kind)


def _members(path: Path) -> Iterator[tuple[str, str, tuple[int, int]]]:
    """(key, suffix, (offset, size)) of every file in a shard, in order."""
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - 1024))
        _require(
            size % 512 == 0 and file.read() == bytes(1024), f"{path}: truncated: the end of the tar file is missing"
        )
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                infos = tar.getmembers()
        except (tarfile.TarError, ValueError, OverflowError) as error:
            raise ValueError(f"{path}: not a readable tar file: {error}") from error
        end = infos[-1].offset_data + infos[-1].size if infos else 0
        file.seek(end)
        _require(not any(file.read()), f"{path}: damaged: data follow the last readable sample")
    for info in infos:
        match = _MEMBER.fullmatch(info.name)
        _require(info.isreg() and match is not None, f"{path}: unexpected entry {info.name!r}")
        assert match is not None
        yield match[1], match[2], (info.offset_data, info.size)


def _encode(image: np.ndarray, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=0)  # full colour: reflectance is learned
    return buffer.getvalue()


def _decode_clip(key: str, jpegs: list[bytes], payload: bytes) -> Clip:
    record = json.loads(payload)
    _require(isinstance(record, dict), "its JSON is not an object")
    _require(record["format"] == FORMAT, f"format {record['format']!r}, this version reads {FORMAT}")
    _require(record["key"] == key, f"its JSON belongs to {record['key']!r}")
    size, checks = record["size"], record["crc32"]
    _require(isinstance(size, int) and size >= _MIN_SIZE, f"size {size!r} is not allowed")
    _require(isinstance(checks, list) and len(checks) == len(jpegs), f"{len(jpegs)} images, but the JSON differs")
    images = np.empty((len(jpegs), size, size, 3), np.uint8)
    for index, (jpeg, check) in enumerate(zip(jpegs, checks, strict=True)):
        _require(zlib.crc32(jpeg) == check, f"image {index:03d} is damaged (checksum)")
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
            _require(image.size == (size, size), f"image {index:03d} is {image.size}, the JSON says {size}")
            _require(image.mode == "RGB", f"image {index:03d} is {image.mode}, not RGB")
            images[index] = np.asarray(image)
    arrays = {name: np.array(record[name], dtype=np.float32) for name in _ARRAYS}
    text = {name: record[name] for name in ("subject", "source", "scheme", "focal_source")}
    return Clip(key=key, images=images, **text, **arrays)
