"""What is written between two markers of a page, and where long lines break."""

import re
from pathlib import Path

import pytest

from benchmarks.harness.markdown import read_between_markers, wrapped, write_between_markers

PAGE = (
    "# Page\n\nBefore.\n\n<!-- a: begin -->\n{}\n<!-- a: end -->\n\n"
    "<!-- b: begin -->\nOther.\n<!-- b: end -->\n\nAfter.\n"
)


def test_only_what_stands_between_the_markers_changes(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(PAGE.format("old"))
    for _ in range(2):
        write_between_markers(path, "a", "| new |\n|---|\n")
        assert path.read_text() == PAGE.format("\n| new |\n|---|\n")
    assert read_between_markers(path, "a") == "| new |\n|---|"
    assert read_between_markers(path, "b") == "Other."


@pytest.mark.parametrize(
    "text",
    [
        "No marker.",
        "<!-- a: begin -->",
        "<!-- a: end --> <!-- a: begin -->",
        PAGE.format("<!-- a: begin -->"),
        PAGE.format("<!-- a: end -->"),
    ],
)
def test_a_page_without_a_place_for_it_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "page.md"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"page\.md needs the lines <!-- a: begin --> and <!-- a: end -->, once"):
        write_between_markers(path, "a", "| new |")
    assert path.read_text() == text


def test_prose_and_lists_break_below_140_characters_and_nothing_else_does() -> None:
    words = " ".join(["well-known", "0.586 ± 0.004,"] * 20)
    kept = [f"{start}{words}" for start in ("# ", "### ", "| ", "![")]
    text = wrapped("\n".join(["short", "", words, "", f"- {words}", f"- {words}", *kept]))
    lines = text.split("\n")
    assert lines[:2] == ["short", ""] and lines[-4:] == kept
    assert 100 < max(map(len, lines[:-4])) < 140
    assert " ".join(text.split()) == " ".join(["short", words, "-", words, "-", words, *kept])
    prose, *items = "\n".join(lines[2:-4]).split("\n\n")
    assert all(line[0] != " " for line in prose.split("\n"))
    assert re.fullmatch("(- [^ ].*(\n  [^ ].*)+\n?){2}", "\n\n".join(items))
    assert wrapped("x" * 200) == "x" * 200 and wrapped(text) == text
