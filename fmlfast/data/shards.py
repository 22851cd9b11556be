"""Reads and writes prepared clips on disk as webdataset-style tar shards.

A folder holds `meta.json` and, for each split, shards `<split>-000000.tar`, `<split>-000001.tar`, ... A sample is one
clip: `<key>.000.jpg`, `<key>.001.jpg`, ..., `<key>.safetensors` with dense points where there are any
(`fmlfast.data.detection`), and last `<key>.json`. Ground truth of synthetic clips lies beside the
clips in `<split>-truth-000000.tar`, one `<key>.safetensors` a clip. A shard appears whole or not at all, and whatever
is read is checked: every malformed thing raises ValueError naming the file and the sample.
"""

import io
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from PIL import Image

from fmlfast.common.text_files import parse_json
from fmlfast.data.detection import LABELS, Detection, from_bytes, load_arrays, to_bytes
from fmlfast.data.meta import read_meta as read_meta
from fmlfast.data.meta import write_meta as write_meta
from fmlfast.data.tar_files import KEY, SHARD, Span, TarWriter, check, read_members, shard_paths
from fmlfast.ibug68 import NUM_LANDMARKS

FORMAT = 1  # of the sample's JSON; raised whenever an old reader would misunderstand it
SCHEME = "ibug68"
_MIN_SIZE = 16  # pixels; nothing can be learned from less
MOST_PIXELS = 2**28  # of a clip: 800 MB, which is in memory as a whole


@dataclass(frozen=True)
class Clip:
    """M square face crops of one subject with landmarks, confidences and intrinsics.

    key: unique in its split, letters, digits and `_#=-`. subject: name of the person; equal subjects share one
    identity. source: where it came from, for display. focal_source: "known", or "assumed" when Ks come from a guess.
    detection: what the face detector says of the frames; None where it was not asked. surface_labels: [M, 478, 2]
    float32, pixels of the template's surface points as the renderer of synthetic clips knows them; None for real clips.
    expression_labels: [M, 52] float32, the expressions it rendered, in the order of SCORE_NAMES; None for real clips.
    color_labels: [M, 478, 3] float32 linear RGB, reflectance around each surface point; None for real clips.
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
    detection: Detection | None = None
    surface_labels: np.ndarray | None = None
    expression_labels: np.ndarray | None = None
    color_labels: np.ndarray | None = None

    def __post_init__(self) -> None:
        check(isinstance(self.key, str) and KEY.fullmatch(self.key) is not None, f"key {self.key!r} is not allowed")
        for name in ("subject", "source"):
            value = getattr(self, name)
            check(isinstance(value, str) and value != "", f"{name} must be a non-empty string, got {value!r}")
        check(self.scheme == SCHEME, f"landmark scheme must be {SCHEME!r}, got {self.scheme!r}")
        check(self.focal_source in ("known", "assumed"), f"focal_source {self.focal_source!r} is unknown")
        shape = self.images.shape
        check(self.images.dtype == np.uint8, f"images must be uint8, got {self.images.dtype}")
        check(
            len(shape) == 4 and 1 <= shape[0] <= 999 and shape[1] == shape[2] >= _MIN_SIZE and shape[3] == 3,
            f"images must be [M, S, S, 3] with 1 <= M <= 999 and S >= {_MIN_SIZE}, got {list(shape)}",
        )
        frames, size = shape[:2]
        check(frames * size**2 <= MOST_PIXELS, f"{frames} images of {size} px are too many for one clip")
        for name, tail in _ARRAYS.items():
            array = getattr(self, name)
            check(array.dtype == np.float32, f"{name} must be float32, got {array.dtype}")
            check(array.shape == (frames, *tail), f"{name} must be {[frames, *tail]}, got {list(array.shape)}")
            check(bool(np.isfinite(array).all()), f"{name} holds NaN or infinity")
        inside = (self.landmarks >= -size) & (self.landmarks <= 2 * size)
        check(bool(inside.all()), "landmarks lie more than a crop's width outside the crop")
        check(bool(((self.confidence >= 0) & (self.confidence <= 1)).all()), "confidence must lie in 0..1")
        focal = self.Ks[:, (0, 1), (0, 1)]
        fixed = self.Ks[:, (1, 2, 2, 2), (0, 0, 1, 2)] == np.array([0, 0, 0, 1], np.float32)
        check(bool((focal > 0).all() and fixed.all()), "Ks must be upper triangular with positive focal lengths")
        determinant = np.linalg.det(self.crop_to_source[:, :, :2].astype(np.float64))
        check(bool((np.abs(determinant) > 1e-12).all()), "crop_to_source cannot be inverted")
        seen = self.detection
        check(seen is None or len(seen.found) == frames, f"the detection must be of {frames} frames")
        for name, labels in self.labels.items():
            shape = (frames, *LABELS[name])
            good = labels.dtype == np.float32 and labels.shape == shape and bool(np.isfinite(labels).all())
            check(good, f"{name} must be finite float32 {list(shape)}")

    @property
    def frames(self) -> int:
        """M, the number of frames."""
        return self.images.shape[0]

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """The labels that the clip has, by their names in `LABELS`."""
        known = {name: getattr(self, name) for name in LABELS}
        return {name: labels for name, labels in known.items() if labels is not None}

    def part(self, first: int, last: int) -> "Clip":
        """Returns the clip with frames `first`..`last`-1 only."""
        detection = self.detection and self.detection.part(first, last)
        some = {name: getattr(self, name)[first:last] for name in ("images", *_ARRAYS, *self.labels)}
        return replace(self, **some, detection=detection)


_ARRAYS: dict[str, tuple[int, ...]] = {
    "landmarks": (NUM_LANDMARKS, 2),
    "confidence": (NUM_LANDMARKS,),
    "Ks": (3, 3),
    "crop_to_source": (2, 3),
    "times": (),
}


@dataclass(frozen=True)
class ClipRef:
    """Location of a clip in its shard: where its JPEG files, its JSON and its dense points are."""

    shard: Path
    key: str
    images: tuple[Span, ...]
    json: Span
    dense: Span | None = None


# ------------------------------------------------------------------------------------------------------------ writing


class ShardWriter(TarWriter):
    """Writes clips of one split into shards; use as a context manager.

    A shard becomes visible when it holds `clips_per_shard` clips, at flush(), and at the end of the `with` block. An
    exception drops the shard under way and leaves the finished ones. `pending` counts the clips not yet visible.
    """

    def __init__(self, folder: str | Path, split: str, clips_per_shard: int = 256, quality: int = 92) -> None:
        super().__init__(folder, split, "", clips_per_shard)
        check(1 <= quality <= 100, f"quality must lie in 1..100, got {quality}")
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
        if clip.detection is not None or clip.labels:
            members.append((f"{clip.key}.safetensors", to_bytes(clip.detection, clip.labels)))
        self.write_sample(
            clip.key, [*members, (f"{clip.key}.json", json.dumps(record, separators=(",", ":")).encode())]
        )


class TruthWriter(TarWriter):
    """Writes ground truth of clips into shards beside theirs; the same rules as ShardWriter."""

    def __init__(self, folder: str | Path, split: str, clips_per_shard: int = 256) -> None:
        super().__init__(folder, split, "-truth", clips_per_shard)

    def add(self, key: str, arrays: dict[str, np.ndarray]) -> None:
        """Appends the arrays that belong to the clip `key`."""
        check(KEY.fullmatch(key) is not None, f"key {key!r} is not allowed")
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        self.write_sample(key, [(f"{key}.safetensors", safetensors.numpy.save(contiguous))])


# ------------------------------------------------------------------------------------------------------------ reading


def list_splits(folder: str | Path) -> list[str]:
    """Lists the splits that have shards in the folder, sorted; ValueError when the folder is missing."""
    folder = Path(folder)
    check(folder.is_dir(), f"{folder} is not a folder of prepared clips")
    matches = (SHARD.fullmatch(path.name) for path in folder.iterdir())
    return sorted({match[1] for match in matches if match and not match[2]})


def list_clips(folder: str | Path, split: str) -> list[ClipRef]:
    """Lists references to all clips of a split, in the order of writing; reads tar headers only.

    Raises ValueError when the folder is missing, has no shard of this split, or a shard is damaged.
    """
    folder = Path(folder)
    splits = list_splits(folder)
    check(
        split in splits,
        f"{folder}: no shards {split}-*.tar; splits found: {', '.join(splits) or 'none'}; choose with --split",
    )
    refs: list[ClipRef] = []
    seen: set[str] = set()
    for path in shard_paths(folder, split, ""):
        images: list[Span] = []
        dense: Span | None = None
        current: str | None = None
        for key, suffix, span in read_members(path):
            check(current in (None, key), f"{path}: sample {current}: its JSON is missing")
            current = key
            if suffix == "json":
                check(len(images) > 0, f"{path}: sample {key}: no images before its JSON")
                check(key not in seen, f"{path}: sample {key}: a sample of this name came before")
                seen.add(key)
                refs.append(ClipRef(path, key, tuple(images), span, dense))
                images, dense, current = [], None, None
            elif suffix == "safetensors":
                check(dense is None and len(images) > 0, f"{path}: sample {key}: unexpected file {key}.{suffix}")
                dense = span
            else:
                expected = dense is None and suffix == f"{len(images):03d}.jpg"
                check(expected, f"{path}: sample {key}: unexpected file {key}.{suffix}")
                images.append(span)
        check(current is None, f"{path}: sample {current}: its JSON is missing")
    return refs


def read_clip(ref: ClipRef) -> Clip:
    """Reads, decodes and validates one clip; ValueError naming shard and sample when it is malformed or damaged."""
    try:
        start = ref.images[0].offset
        with ref.shard.open("rb") as file:  # a sample is contiguous: one read
            file.seek(start)
            block = file.read(ref.json.offset + ref.json.size - start)

        def part(span: Span, name: str) -> bytes:
            return span.check(block[span.offset - start : span.offset - start + span.size], name)

        jpegs = [part(span, f"image {index:03d}") for index, span in enumerate(ref.images)]
        clip = _decode_clip(ref.key, jpegs, part(ref.json, "its JSON"))
        if ref.dense is None:
            return clip
        detection, labels = from_bytes(part(ref.dense, "its detection"))
        return replace(clip, detection=detection, **labels)
    except (ValueError, TypeError, KeyError, OverflowError, OSError, Image.DecompressionBombError) as error:
        reason = f"{error} is missing from the JSON" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{ref.shard}: sample {ref.key}: {reason}") from error


class Truth(Mapping[str, dict[str, np.ndarray]]):
    """Mapping from clip key to ground truth arrays, read from disk on access."""

    def __init__(self, spans: dict[str, tuple[Path, Span]]) -> None:
        self._spans = spans

    def __getitem__(self, key: str) -> dict[str, np.ndarray]:
        path, span = self._spans[key]
        with path.open("rb") as file:
            file.seek(span.offset)
            payload = file.read(span.size)
        try:
            return load_arrays(span.check(payload, "its truth"))
        except ValueError as error:
            raise ValueError(f"{path}: sample {key}: {error}") from error

    def array(self, key: str, name: str, tail: tuple[int, ...], least: int) -> np.ndarray:
        """Reads an array [N, *tail], N at least `least`; ValueError naming shard and clip for another or none."""
        check(key in self, f"clip {key} has no ground truth, but others of its split have")
        found = self[key].get(name, np.zeros(0))
        fits = found.ndim > 0 and found.shape[1:] == tail and len(found) >= least and found.dtype.kind == "f"
        check(fits, f"{self._spans[key][0]}: sample {key}: {name} must be floats [{least}, {str(tail)[1:]}")
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._spans)

    def __len__(self) -> int:
        return len(self._spans)


def read_truth(folder: str | Path, split: str) -> Truth:
    """Opens the ground truth of a split: a mapping from clip key to named arrays.

    Raises ValueError when there is none or a shard is damaged.
    """
    folder = Path(folder)
    paths = shard_paths(folder, split, "-truth") if folder.is_dir() else []
    check(len(paths) > 0, f"{folder}: no ground truth {split}-truth-*.tar; only synthetic clips have it")
    spans: dict[str, tuple[Path, Span]] = {}
    for path in paths:
        for key, suffix, span in read_members(path):
            check(suffix == "safetensors", f"{path}: sample {key}: unexpected file {key}.{suffix}")
            check(key not in spans, f"{path}: sample {key}: a sample of this name came before")
            spans[key] = (path, span)
    return Truth(spans)


def _encode(image: np.ndarray, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=0)  # full colour: reflectance is learned
    return buffer.getvalue()


def _decode_clip(key: str, jpegs: list[bytes], payload: bytes) -> Clip:
    record = parse_json(payload, "its JSON")
    check(isinstance(record, dict), "its JSON is not an object")
    check(record["format"] == FORMAT, f"format {record['format']!r}, this version reads {FORMAT}")
    check(record["key"] == key, f"its JSON belongs to {record['key']!r}")
    size, checksums = record["size"], record["crc32"]
    check(type(size) is int and size >= _MIN_SIZE, f"size {size!r} is not allowed")
    check(isinstance(checksums, list) and len(checksums) == len(jpegs), f"{len(jpegs)} images, but the JSON differs")
    check(len(jpegs) * size**2 <= MOST_PIXELS, f"size {size} is too large for {len(jpegs)} images")
    images = np.empty((len(jpegs), size, size, 3), np.uint8)
    for index, (jpeg, checksum) in enumerate(zip(jpegs, checksums, strict=True)):
        check(zlib.crc32(jpeg) == checksum, f"image {index:03d} is damaged (checksum)")
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
            check(image.size == (size, size), f"image {index:03d} is {image.size}, the JSON says {size}")
            check(image.mode == "RGB", f"image {index:03d} is {image.mode}, not RGB")
            images[index] = np.asarray(image)
    fields: dict[str, Any] = {name: np.array(record[name], dtype=np.float32) for name in _ARRAYS}
    fields |= {name: record[name] for name in ("subject", "source", "scheme", "focal_source")}
    return Clip(key=key, images=images, **fields)
