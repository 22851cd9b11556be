"""Writes tables of errors as JSON, and keeps those that were there before."""

import json
from itertools import count
from pathlib import Path
from typing import Any

from fmlfast.common.atomic import atomic_path
from fmlfast.common.locks import SUFFIX, hold
from fmlfast.common.text_files import read_json

_PATIENCE = 60.0  # s, of which another evaluation needs a few thousandths


def store_table(path: Path, table: dict[str, Any], named_by: tuple[str, ...]) -> None:
    """Writes a table to `path`, whole or not at all; another one that is there is renamed first.

    named_by: entries of the table that the old one's name gets, as in evaluation-DATA-SPLIT.json; the next ones of that
    name end in -2, -3, ...
    """
    text = json.dumps(table, indent=2) + "\n"
    with hold(path.with_name(f".{path.name}.lock{SUFFIX}"), str(path), _PATIENCE):  # two evaluations may end at once
        if path.exists() and path.read_bytes() != text.encode():
            path.replace(_free_name(path, named_by))
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _free_name(path: Path, named_by: tuple[str, ...]) -> Path:
    try:
        told = read_json(path)
    except ValueError:
        told = {}
    values = (str(told.get(name, "unknown")).replace("\0", "")[:100] for name in named_by)
    words = "-".join([path.stem, *(Path(value).name or "unknown" for value in values)])
    names = (path.with_name(f"{words}{'' if number == 1 else f'-{number}'}{path.suffix}") for number in count(1))
    return next(name for name in names if not name.exists())
