"""The CPU suite as one command."""

from pathlib import Path

import pytest

from benchmarks import run
from benchmarks.harness.rows import OUT_OF_TIME, provenance, read_rows
from benchmarks.run import cpu_suite


def test_the_cpu_suite_leaves_a_row_for_all_it_skips(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    pytest.importorskip("pytest_benchmark")
    status = cpu_suite(["--rows", str(tmp_path / "rows.csv")], only="deviation", seconds=0)
    assert status == 0, capfd.readouterr()
    rows = read_rows(tmp_path / "rows.csv")
    assert rows and {row.op for row in rows} == {"deviation"} and {row.note for row in rows} == {OUT_OF_TIME}
    assert {row.commit for row in rows} == {provenance("cpu")["commit"]}


def test_a_suite_that_measures_nothing_leaves_the_results_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    (tmp_path / "cpu.csv").write_text("what was there")
    monkeypatch.setattr(run, "read_rows", lambda path: [])
    monkeypatch.setattr(run, "cpu_rows", lambda only, seconds: [])
    monkeypatch.setattr("sys.argv", ["run", "--device", "cpu"])
    with pytest.raises(SystemExit, match="nothing was measured"):
        run.main()
    assert (tmp_path / "cpu.csv").read_text() == "what was there"
