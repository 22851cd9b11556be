"""Reads and writes numbered tar files, each whole or not at all; `fmlfast.data.shards` builds on it."""

import io
import re
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from fmlfast.common.atomic import atomic_path
from fmlfast.common.given_files import check_file

KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_#=-]{0,79}")  # no dot, no slash: keys become file names
SHARD = re.compile(r"([a-z][a-z0-9_]*)(-truth)?-(\d{6})\.tar")
_SPLIT = re.compile(r"[a-z][a-z0-9_]*")
_MEMBER = re.compile(rf"({KEY.pattern})\.(\d{{3}}\.jpg|json|safetensors)")
_CHECKSUM = re.compile(r"crc32-([0-9a-f]{8})")  # the owning group's name in a header, which means nothing in a shard


def check(condition: bool, message: str) -> None:
    """Raises ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def shard_paths(folder: Path, split: str, kind: str) -> list[Path]:
    """Lists the shards of a split, in order; kind is "" for clips and "-truth" for ground truth."""
    matches = ((path, SHARD.fullmatch(path.name)) for path in folder.iterdir())
    return sorted(path for path, match in matches if match and match[1] == split and (match[2] or "") == kind)


class Span(NamedTuple):
    """Place of a file in a shard: byte offset, size, and CRC-32 where the shard tells it."""

    offset: int
    size: int
    crc32: int | None

    def check(self, payload: bytes, name: str) -> bytes:
        """Returns the bytes of the file `name` if they are those that were written, else raises ValueError."""
        check(len(payload) == self.size, f"{name} is cut short")
        check(self.crc32 in (None, zlib.crc32(payload)), f"{name} is damaged (checksum)")
        return payload


def read_members(path: Path) -> Iterator[tuple[str, str, Span]]:
    """Yields (key, suffix, place) of every file in a shard, in order; ValueError when it is damaged.

    Only headers of plain files are understood, as `TarWriter` makes them: those that continue elsewhere (long names,
    sparse files) tell sizes that exhaust memory or never end.
    """
    with check_file(path).open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - 1024))
        check(size % 512 == 0 and file.read() == bytes(1024), f"{path}: truncated: the end of the tar file is missing")
        offset = 0
        while True:
            file.seek(offset)
            block = file.read(512)
            if not any(block):
                rest = any(chunk.strip(b"\0") for chunk in iter(partial(file.read, 1 << 20), b""))
                check(not rest, f"{path}: damaged: data follow the last sample")
                return
            try:
                info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except (tarfile.TarError, ValueError, OverflowError) as error:
                raise ValueError(f"{path}: not a readable tar file: {error}") from error
            match, span = _MEMBER.fullmatch(info.name), Span(offset + 512, info.size, _stated(info))
            if match is None or info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                raise ValueError(f"{path}: unexpected entry {info.name!r}")
            check(0 <= span.size <= size - span.offset, f"{path}: damaged: {info.name} has {span.size} bytes")
            yield match[1], match[2], span
            offset = span.offset + -(-span.size // 512) * 512


def _stated(info: tarfile.TarInfo) -> int | None:
    """Returns the CRC-32 in a header; None in shards of before, and in those that other programs wrote."""
    match = _CHECKSUM.fullmatch(info.gname)
    return None if match is None else int(match[1], 16)


class TarWriter:
    """Writes numbered tar files of at most `per_shard` samples each, numbered after the files that exist."""

    def __init__(self, folder: str | Path, split: str, kind: str, per_shard: int) -> None:
        check(_SPLIT.fullmatch(split) is not None, f"split {split!r} must be lower case letters, digits and '_'")
        check(per_shard >= 1, f"clips_per_shard must be at least 1, got {per_shard}")
        self.folder = Path(folder)
        self.pending = 0  # samples in the shard under way, not visible yet
        self._stem = f"{split}{kind}"
        self._per_shard = per_shard
        self._stack = ExitStack()
        self._tar: tarfile.TarFile | None = None
        self._keys: set[str] = set()
        paths = shard_paths(self.folder, split, kind) if self.folder.is_dir() else []
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
            self._tar, self.pending = None, 0  # first: a failure drops the shard
            self._stack.close()
            self._number += 1

    def write_sample(self, key: str, members: list[tuple[str, bytes]]) -> None:
        """Appends the named files of one sample; a failure drops the shard under way."""
        if key in self._keys:
            raise ValueError(f"key {key!r} was written before; keys must be unique in a split")
        try:
            if self._tar is None:
                temporary = self._stack.enter_context(atomic_path(self.folder / f"{self._stem}-{self._number:06d}.tar"))
                tar = tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT)
                self._tar = self._stack.enter_context(tar)
            for name, payload in members:
                info = tarfile.TarInfo(name)  # no owner, no time: equal clips give equal bytes
                info.size, info.gname = len(payload), f"crc32-{zlib.crc32(payload):08x}"
                self._tar.addfile(info, io.BytesIO(payload))
        except BaseException as error:
            self._stack.__exit__(type(error), error, error.__traceback__)  # a torn sample must not become visible
            self._tar, self.pending = None, 0
            raise
        self._keys.add(key)
        self.pending += 1
        if self.pending == self._per_shard:
            self.flush()
