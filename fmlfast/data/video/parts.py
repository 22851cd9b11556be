"""Shares videos among machines without coordination, and merges what each has prepared into one folder."""

import hashlib
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from fmlfast.common.locks import lock_folder
from fmlfast.data.shards import ClipRef, list_clips, list_splits, read_clip, read_meta, write_meta
from fmlfast.data.tar_files import TarWriter, check
from fmlfast.data.video.prepared_folder import (
    CLIPS_A_SHARD,
    PARTS,
    PrepareConfig,
    PrepareReport,
    open_folder,
    write_report,
)

_FOLDER = re.compile(r"(\d+)-of-(\d+)")


def part_of(name: str, parts: int) -> int:
    """Assigns a video to a part, 1..parts, by the hash of its name: other videos that come or go change nothing."""
    return 1 + int(hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest(), 16) % parts


def merge_parts(config: PrepareConfig, videos: Mapping[str, str]) -> PrepareReport:
    """Merges the parts in `config.out`/parts into `config.out`: the clips of one run without parts, byte for byte.

    videos: names of all that must have been prepared, by source key. Every clip is decoded to check it before anything
    is written; the samples are copied as they are, in the order of their names. Clips merged before are not copied
    again, so that an interrupted merge goes on; the parts stay.

    Raises ValueError when a part or a video is missing or comes twice, parts were made with other settings, or a shard
    is damaged or does not hold the clips that its report names; BlockingIOError while another process writes one of
    the folders.
    """
    folders = _find_parts(config.out / PARTS)
    with ExitStack() as stack:
        for folder in (config.out, *folders):
            stack.enter_context(lock_folder(folder))
        return _merge(config, videos, folders)


def _merge(config: PrepareConfig, videos: Mapping[str, str], folders: list[Path]) -> PrepareReport:
    clips: dict[str, dict[str, ClipRef]] = {}
    origin: dict[str, Path] = {}
    report = open_folder(config.out, config)
    before = set(report.sources)
    present = {ref.key for split in list_splits(config.out) for ref in list_clips(config.out, split)}
    meta = read_meta(folders[0])
    for folder in folders:
        part = open_folder(folder, config)
        check(read_meta(folder) == meta, f"{folder} was made by another version than the first part; prepare it again")
        for key, record in part.sources.items():
            if key in origin:
                raise ValueError(f"{record.name} is in {origin[key]} and in {folder}; remove one of them")
            origin[key] = folder
        named = {clip.key for record in part.sources.values() for clip in record.clips if clip.key}
        refs = {split: list_clips(folder, split) for split in list_splits(folder)}
        found = {ref.key for listed in refs.values() for ref in listed}
        if found != named:  # killed between shard and report, or a shard is lost
            again = f"run --part {folder.name.replace('-of-', '/')} again, or, if shards were lost, delete it first"
            raise ValueError(f"{folder}: report.json and shards differ in clips: {min(found ^ named)}; {again}")
        for split, listed in refs.items():
            clips.setdefault(split, {}).update({ref.key: ref for ref in listed})
        report.sources |= part.sources
    missing = [name for key, name in videos.items() if key not in report.sources]
    if missing:
        parts = sorted({part_of(name, len(folders)) for name in missing})
        again = ", ".join(f"{number}/{len(folders)}" for number in parts)
        raise ValueError(f"{len(missing)} videos are not prepared, such as {missing[0]}; run --part {again} again")
    for listed in clips.values():
        for ref in listed.values():
            read_clip(ref)
    write_meta(config.out, meta)
    for split, listed in sorted(clips.items()):
        with TarWriter(config.out, split, "", CLIPS_A_SHARD) as writer:
            for key in sorted(set(listed) - present):
                writer.write_sample(key, _members(listed[key]))
    report.new = len(set(report.sources) - before)
    write_report(config.out, report)
    return report


def _find_parts(folder: Path) -> list[Path]:
    """Lists the folders of all parts; ValueError when one is missing or they are of different divisions."""
    found = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    names = [match for path in found if (match := _FOLDER.fullmatch(path.name))]
    check(len(names) > 0, f"{folder} holds no parts; prepare them with --part 1/N ... N/N")
    totals = sorted({int(match[2]) for match in names})
    check(len(totals) == 1, f"{folder} holds parts of different divisions, {totals}; keep those of one")
    total = totals[0]
    absent = sorted(set(range(1, total + 1)) - {int(match[1]) for match in names})
    check(not absent, f"{folder}: missing parts, run --part {', '.join(f'{number}/{total}' for number in absent)}")
    paths = [folder / f"{number}-of-{total}" for number in range(1, total + 1)]
    for path in paths:
        done = (path / "meta.json").exists() and (path / "report.json").exists()
        check(done, f"{path} is not finished; run --part {path.name.replace('-of-', '/')}")
    return paths


def _members(ref: ClipRef) -> list[tuple[str, bytes]]:
    """Reads the files of a clip from its shard, as they are."""
    spans = [(f"{ref.key}.{index:03d}.jpg", span) for index, span in enumerate(ref.images)]
    spans += [(f"{ref.key}.safetensors", ref.dense)] if ref.dense is not None else []
    spans.append((f"{ref.key}.json", ref.json))
    members = []
    with ref.shard.open("rb") as file:
        for name, span in spans:
            file.seek(span.offset)
            members.append((name, span.check(file.read(span.size), f"{ref.shard}: {name}")))
    return members
