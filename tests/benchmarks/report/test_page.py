"""What the report makes of rows."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.harness.rows import write_rows
from benchmarks.report.comparison import where_we_lose
from benchmarks.report.page import source, write_report
from benchmarks.report.table import amount
from tests.benchmarks.example_rows import ROWS


def test_where_we_lose_is_said():
    text = "\n".join(where_we_lose("torch", ROWS))
    assert "| `decode` 8 x 500 | forward | compile | 1.5 | 1 | 1.5x |" in text
    assert "1 of 1 take more than 1.5 times their floor; `decode` forward 2.5x." in text
    assert "- `decode` backward, 8 x 500, by torch: wrong: error 2e-1" in text
    assert "Two runs differ in their last bits: `decode` forward by compile." in text
    assert "1 of 9 rows" in text
    assert "No other provider is faster than compile" in where_we_lose("compile", ROWS)[0]


def test_the_report_has_every_provider_and_says_what_is_not_measured(tmp_path: Path):
    pytest.importorskip("matplotlib")
    write_rows(tmp_path / "cpu.csv", ROWS)
    text = write_report(tmp_path, tmp_path / "docs").read_text()
    gpu, cpu = text.split("## CPU")
    assert "| `decode` | forward | not measured | not measured | not measured | not measured | not measured |" in gpu
    assert " ms" not in gpu.split("## GPU")[1]
    assert "| `decode` 8 x 500 | forward | 1.5 | 1 (1.5x) | pytorch3d: not installed | 0.6 | 2.5x |" in cpu
    assert "| `decode` 8 x 500 | backward | wrong | not measured: out of time | – | – | – |" in cpu
    assert "| training step | cpu preset | torch | 100 | 320 | – | – | – |" in cpu
    assert (tmp_path / "docs" / "images" / "bench-cpu-image.png").stat().st_size > 5000
    assert "images/bench-cpu-image.png" in cpu
    write_rows(tmp_path / "cuda.csv", [replace(ROWS[0], provider="triton", device="H100", driver="580")])
    assert "H100, driver 580" in write_report(tmp_path, tmp_path / "docs").read_text()


def test_what_differs_only_by_commit_is_one_line() -> None:
    a, b, c = (replace(ROWS[0], device="EPYC", torch="2", triton="3", commit=commit) for commit in "abc")
    assert source([a, b, a]) == "EPYC, torch 2, triton 3, commits a, b."
    others = [replace(b, driver="580"), replace(c, torch="1")]
    assert source([a, *others]).split("\n") == [
        "EPYC, torch 2, triton 3, commit a.",
        "EPYC, driver 580, torch 2, triton 3, commit b.",
        "EPYC, torch 1, triton 3, commit c.",
    ]


def test_numbers_keep_what_counts():
    values = (0.0123456, 0.5, 1.5, 12.34, 1234.5, 1e-6, 3e9, 0.0, None)
    assert [amount(v) for v in values] == ["0.0123", "0.5", "1.5", "12.3", "1,234", "1.00e-06", "3.00e+09", "0", "–"]
