"""What is written between two markers of a page."""

from pathlib import Path

import pytest

from benchmarks.harness.markdown import read_between_markers, write_between_markers

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
