"""A few cases of `make torture`, and that it notices what is lost."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tools.torture.faults import Row, Torture, table
from tools.torture.jobs import Job, prepare_job, table_job

pytest.importorskip("fcntl")
pytest.importorskip("av")


@pytest.mark.parametrize(("make", "cases"), [(prepare_job, 2), (table_job, 4)])
def test_nothing_is_lost(make, cases: int, tmp_path: Path) -> None:
    (tmp_path / "inputs").mkdir()
    job = make(tmp_path / "inputs")
    for row in Torture(job, tmp_path / "cases", seed=cases).rows(cases):
        assert row.tried == cases and not row.lost, row


def careless(out: Path) -> None:
    """Writes in place, adds to what is there, and hides what went wrong."""
    out.mkdir(exist_ok=True)
    for number in range(20):
        with (out / "rows.jsonl").open("a") as file:
            file.write(json.dumps({"row": number}) + "\n")
    (out / ".half.fmlfast").touch()
    (out / ".half.fmlfast").unlink()


def test_losses_are_noticed(tmp_path: Path) -> None:
    job = Job("careless", careless, lambda out: (out / "rows.jsonl").read_text())
    tortured = Torture(job, tmp_path / "cases")
    rows = [tortured.killed_at_operations(10), tortured.full_disk(4), tortured.two_at_once(2)]
    assert all(len(row.lost) > 0 for row in rows), rows
    print_instead = replace(job, run=lambda out: print("Traceback") or careless(out))
    assert Torture(print_instead, tmp_path / "more").two_at_once(1).lost
    with pytest.raises(ChildProcessError, match="broken ended with status 2: error: no"):
        Torture(Job("broken", lambda out: (_ for _ in ()).throw(ValueError("no")).send(None), str), tmp_path / "broken")


def test_the_table_has_a_line_a_fault_and_a_column_a_place() -> None:
    rows = [Row("kill", "a", 1000), Row("kill", "b", 3, ["x", "y"]), Row("full", "b", 4)]
    lines = ["| fault | a | b |", "| --- | --: | --: |", "| kill | 1,000 | 3, 2 lost |", "| full |  | 4 |"]
    assert table(rows).splitlines() == lines
