"""Reads and writes numbered tar files, each whole or not at all; `fmlfast.data.shards` builds on it."""

import io
import re
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from fmlfast.common.atomic import atomic_path

KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_#=-]{0,79}")  # no dot, no slash: keys become file names
SHARD = re.compile(r"([a-z][a-z0-9_]*)(-truth)?-(\d{6})\.tar")
_SPLIT = re.compile(r"[a-z][a-z0-9_]*")
_MEMBER = re.compile(rf"({KEY.pattern})\.(\d{{3}}\.jpg|json|safetensors)")


def check(condition: bool, message: str) -> None:
    """Raises ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def shard_paths(folder: Path, split: str, kind: str) -> list[Path]:
    """Lists the shards of a split, in order; kind is "" for clips and "-truth" for ground truth."""
    matches = ((path, SHARD.fullmatch(path.name)) for path in folder.iterdir())
    return sorted(path for path, match in matches if match and match[1] == split and (match[2] or "") == kind)


def read_members(path: Path) -> Iterator[tuple[str, str, tuple[int, int]]]:
    """Yields (key, suffix, (offset, size)) of every file in a shard, in order; ValueError when it is damaged."""
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - 1024))
        check(size % 512 == 0 and file.read() == bytes(1024), f"{path}: truncated: the end of the tar file is missing")
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                infos = tar.getmembers()
        except (tarfile.TarError, ValueError, OverflowError) as error:
            raise ValueError(f"{path}: not a readable tar file: {error}") from error
        end = infos[-1].offset_data + infos[-1].size if infos else 0
        file.seek(end)
        check(not any(file.read()), f"{path}: damaged: data follow the last readable sample")
    for info in infos:
        match = _MEMBER.fullmatch(info.name)
        if match is None or not info.isreg():
            raise ValueError(f"{path}: unexpected entry {info.name!r}")
        yield match[1], match[2], (info.offset_data, info.size)


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
