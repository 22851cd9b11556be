"""Reads text and JSON that may be damaged or hostile: one ValueError that names the file, and bounded memory."""

import json
import zlib
from itertools import islice
from pathlib import Path
from typing import Any

from fmlfast.common.given_files import check_file

CHECKSUM = "checksum"  # of a JSON object
MOST_TEXT = 2**28  # bytes of a text file
MOST_JSON = 2**24  # bytes of JSON, which takes up to 30 times as much as Python's objects
_PART = 2**20  # bytes; a read makes room for as many as it is asked for


def read_text(path: str | Path, most: int = MOST_TEXT) -> str:
    """Reads UTF-8 text of at most `most` bytes; ValueError naming the file for others, OSError where unreadable."""
    path = check_file(path)
    with path.open("rb") as file:
        payload = b"".join(islice(iter(lambda: file.read(_PART), b""), most // _PART + 1))
    if len(payload) > most:
        raise ValueError(f"{path}: damaged, or not what it seems: text of over {most >> 20} MB")
    try:
        return payload.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: damaged, or no UTF-8 text: {error}") from error


def parse_json(text: str | bytes, name: str | Path, most: int = MOST_JSON) -> Any:
    """Parses JSON of at most `most` bytes; ValueError, naming the file as `name`, for anything else."""
    if len(text) > most:
        raise ValueError(f"{name}: damaged, or not what it seems: JSON of over {most >> 20} MB")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # also for integers of over 4,300 digits
        raise ValueError(f"{name}: damaged: no JSON ({error})") from error


def read_json(path: str | Path, most: int = MOST_JSON) -> dict[str, Any]:
    """Reads a file that holds a JSON object; ValueError naming the file for others, OSError where unreadable.

    Where it has a checksum (`checked_json`), this is compared and left out.
    """
    stored = parse_json(read_text(path, most), path, most)
    if not isinstance(stored, dict):
        raise ValueError(f"{path}: damaged: not a JSON object")
    told = stored.pop(CHECKSUM, None)
    if told is not None and told != _checksum(stored):
        raise ValueError(f"{path}: damaged (checksum); if you changed it, remove its line {CHECKSUM!r}")
    return stored


def checked_json(content: dict[str, Any]) -> str:
    """Makes the text of a JSON object that `read_json` finds flipped bits in."""
    return json.dumps(content | {CHECKSUM: _checksum(json.loads(json.dumps(content)))}, indent=1) + "\n"


def _checksum(content: dict[str, Any]) -> str:
    """CRC-32 of what JSON tells, however it is laid out."""
    return f"{zlib.crc32(json.dumps(content, sort_keys=True).encode()):08x}"
