"""The report page: whole, self-contained, and honest about damaged input."""

import json
import math
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fmlfast.evaluation.report import read_history, write_report

EVALUATION: dict[str, Any] = {
    "mean_face": {"vertex_mm": 3.17, "neutral_mm": 2.68, "normal_deg": 9.0, "landmark_nme": 6.1, "photometric": 30.0},
    "frames_1": {"vertex_mm": 2.4, "neutral_mm": 2.2, "normal_deg": 8.0, "landmark_nme": 3.5, "photometric": 21.0},
    "frames_4": {"vertex_mm": 2.3, "neutral_mm": 2.0, "normal_deg": 7.5, "landmark_nme": 3.2, "photometric": 20.0},
    "frames_4_refined": {"vertex_mm": 2.1, "neutral_mm": 1.9, "normal_deg": 7.2, "landmark_nme": 2, "photometric": 15},
    "ratios": {"frames_1": {"vertex_mm": 0.757}, "frames_4": {"vertex_mm": 0.726}, "frames_4_refined": {}},
    "spread": {"mean_face": {"vertex_mm": 0.0625}, "frames_1": {"vertex_mm": None}},
    "floor": {"graph": 0.43, "complement": 1.55, "complement_rank": 51},
    "expressions": {
        "commonest": ["eyeBlink"],
        "mean_error": {"mean_face": 0.1234, "frames_4": 0.0567},
        "mean_active_error": {"mean_face": None, "frames_4": 0.21},
        "by_name": {
            "eyeBlink": {
                "activity": 0.1234,
                "active": 0.25,
                "mean_face": {"error": 0.1234, "active_error": None, "correlation": None},
                "frames_4": {"error": 0.0567, "active_error": 0.21, "correlation": 0.87},
            }
        },
    },
    "split": "test",
    "people": 100,
}


def make_run(folder: Path) -> Path:
    run = folder / "my <run>"
    (run / "previews").mkdir(parents=True)
    config = {"model": {"level": 1, "channels": [24, 48], "spectral": None}, "steps": 900, "data": "data/<a>&b"}
    (run / "config.json").write_text(json.dumps(config))
    lines = [{"step": s, "loss": 30 * math.exp(-s / 40), "frames_per_second": 90.0 + s % 3} for s in range(0, 300, 7)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "evaluation.json").write_text(json.dumps(EVALUATION))
    for step in (0, 100, 150, 300):
        Image.fromarray(np.full((8, 20, 3), step // 2, np.uint8)).save(run / "previews" / f"step-{step:06d}.png")
    Image.fromarray(np.zeros((8, 20, 3), np.uint8)).save(run / "error_map.png")
    return run


class Page(HTMLParser):
    """Collects what a browser would fetch, and checks that tags nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass  # opens and closes at once

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_holds_everything_it_shows(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    path = write_report(run)
    assert path == run / "report.html"
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert len(page.sources) == 5 and all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert "url(" not in text and "@import" not in text and "<script" not in text
    words = "".join(page.words)
    for expected in (
        "my <run>",
        "data/<a>&b",
        "24, 48",
        "± 0.06",
        "× 0.726",
        "1.55 mm",
        "rank 51",
        "4 frames, refined",
        "25% of frames",
        "0.0570.21 · r 0.87",
    ):
        assert expected in words
    assert "Step 0" in words and "Step 150" in words and "Step 300" in words and "Step 100" not in words


def test_a_young_run_has_a_page_too(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert page.open == [] and page.sources == []
    assert "Machine" in page.words and "Training" not in page.words


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a run folder"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["config.json", "evaluation.json"])
@pytest.mark.parametrize("content", ['{"a": ', "[1, 2]"])
def test_damaged_json_is_named_and_leaves_no_page(tmp_path: Path, name: str, content: str) -> None:
    run = make_run(tmp_path)
    (run / name).write_text(content)
    with pytest.raises(ValueError, match=name):
        write_report(run)
    assert not (run / "report.html").exists()


def test_history_survives_a_crash_and_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 0, "loss": 5}\n{"step": 10, "loss": 4}\n{"step": 0, "loss": 6, "note": "x"}\n{"step": 20, "lo'
    )
    assert read_history(path) == [{"step": 0, "loss": 6}, {"step": 10, "loss": 4}]
    path.write_text('{"step": 0}\n{"loss": 4}\n{"step": 20}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_history(path)
    assert read_history(tmp_path / "absent.jsonl") == []


def test_a_missing_plotter_costs_the_curves_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert page.open == [] and len(page.sources) == 4
    assert "fmlfast[eval]" in "".join(page.words)
