"""Writes tables into hand-written Markdown pages, between two markers."""

from pathlib import Path

from fmlfast.common.atomic import atomic_path


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


def _parts(path: Path, name: str) -> tuple[str, str, str]:
    """What goes to the end of the first marker, what stands between them, and what begins with the second."""
    begin, end = (f"<!-- {name}: {word} -->" for word in ("begin", "end"))
    text = path.read_text()
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"{path} needs the lines {begin} and {end}, once and in this order")
    before, rest = text.split(begin)
    content, after = rest.split(end)
    return before + begin, content, end + after
