"""The CPU suite as one command."""

from pathlib import Path

import pytest

from benchmarks import run
from benchmarks.harness.measure import jobs
from benchmarks.harness.rows import OUT_OF_TIME, Row, provenance, read_rows, write_rows
from benchmarks.harness.timing import Deadline
from benchmarks.ops import all_cases
from benchmarks.peers import all_peers
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


def test_the_groups_of_a_gpu_are_all_of_its_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run, "copy_bandwidth", lambda device: 1e12)
    monkeypatch.setattr(run, "measure_gpu", lambda rivals, *_: [job.row() for job in rivals])
    monkeypatch.setattr(run.steps, "make_clips", lambda folder: None)
    monkeypatch.setattr(run.steps, "measure_step", lambda case, *_: case.row())
    monkeypatch.setattr(run.steps, "data_rows", lambda device: [run.steps.generator_row()])

    def keys(only: str | None, group: str | None) -> list[tuple[str, ...]]:
        return [row.key for row in run.measure_cuda(only, group, Deadline(1.0))]

    groups = {group: keys(None, group) for group in run.GROUPS}
    whole = keys(None, None)
    assert sum(groups.values(), []) == whole and len(set(whole)) == len(whole)
    assert {key[2] for key in groups["steps"]} == {"triton", run.steps.EAGER, "torch"}
    assert {key[4] for key in groups["kernels"]} == {""} and "compile" not in {key[2] for key in groups["kernels"]}
    assert keys("deviation", None) == [key for key in whole if key[0] == "deviation"] != []


def test_whoever_computes_the_same_is_timed_in_turns() -> None:
    some = jobs(all_cases(), "cuda", all_peers())
    for rivals in (found := run.in_turns(some)):
        assert len({(job.bench.op, job.bench.shape, job.bench.sweep, job.direction) for job in rivals}) == 1
        assert len({job.provider.name for job in rivals}) == len(rivals)
    assert sum(map(len, found)) == len(some) and max(map(len, found)) > 2


def test_a_run_that_is_cut_short_keeps_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(*_: object):
        yield Row("render", "forward", "triton", "s", median_ms=1.0)
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "measure_rows", rows)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    write_rows(tmp_path / "cuda.csv", [Row("antialias", "forward", "triton", "s", median_ms=2.0)])
    monkeypatch.setattr("sys.argv", ["run", "--device", "cuda", "--group", "rest", "--out", str(tmp_path)])
    with pytest.raises(KeyboardInterrupt):
        run.main()
    assert [row.op for row in read_rows(tmp_path / "cuda.csv")] == ["antialias", "render"]


def test_a_part_of_the_suite_is_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["run", "--device", "cpu", "--group", "steps"])
    with pytest.raises(SystemExit, match="--group and --out are for --device cuda"):
        run.main()
