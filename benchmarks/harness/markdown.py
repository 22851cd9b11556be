"""Lays out Markdown pages: what is made goes between two markers of a hand-written page, long lines are wrapped."""

import textwrap
from pathlib import Path

from fmlfast.common.atomic import atomic_path

WIDTH = 139
"""Characters in a line of prose at most."""


def write_between_markers(path: Path, name: str, content: str) -> None:
    """Replaces what stands between `<!-- NAME: begin -->` and `<!-- NAME: end -->`.

    Raises ValueError unless the file has each marker once, in this order.
    """
    before, _, after = _parts(path, name)
    with atomic_path(path) as temporary:
        temporary.write_text(f"{before}\n\n{content.strip()}\n\n{after}")


def read_between_markers(path: Path, name: str) -> str:
    """Reads what stands between the markers, without the blank lines around it."""
    return _parts(path, name)[1].strip()


def wrapped(text: str) -> str:
    """Breaks the lines of prose and lists that are longer than WIDTH; headings, tables and images stay as they are."""
    return "\n".join(_wrapped_line(line) for line in text.split("\n"))


def _wrapped_line(line: str) -> str:
    if len(line) <= WIDTH or line.startswith(("#", "|", "![")):
        return line
    indent = "  " if line.startswith("- ") else ""
    return textwrap.fill(line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _parts(path: Path, name: str) -> tuple[str, str, str]:
    """What goes to the end of the first marker, what stands between them, and what begins with the second."""
    begin, end = (f"<!-- {name}: {word} -->" for word in ("begin", "end"))
    text = path.read_text()
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"{path} needs the lines {begin} and {end}, once and in this order")
    before, rest = text.split(begin)
    content, after = rest.split(end)
    return before + begin, content, end + after
