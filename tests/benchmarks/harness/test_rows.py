"""How rows are stored, read and merged."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.harness.rows import Row, merge, provenance, read_rows, write_rows
from tests.benchmarks.example_rows import ROWS


def test_rows_survive_a_file(tmp_path: Path):
    rows = [replace(row, **provenance("cpu")) for row in ROWS]
    write_rows(tmp_path / "cpu.csv", rows)
    assert read_rows(tmp_path / "cpu.csv") == rows
    assert "1 thread" in rows[0].device and rows[0].torch == torch.__version__ and rows[0].commit
    assert read_rows(tmp_path / "cuda.csv") == []
    (tmp_path / "cpu.csv").write_text("op,time\nx,1\n")
    with pytest.raises(ValueError, match="must have the columns op, direction"):
        read_rows(tmp_path / "cpu.csv")


def test_one_operation_replaces_its_own_rows():
    new = [Row("raster", "forward", "torch", "240 px", median_ms=7.0)]
    found = merge(ROWS, new, "raster")
    assert [row.median_ms for row in found if row.op == "raster"] == [7.0]
    assert len(found) == len(ROWS) - 2 + 1
    assert merge([], new, None) == new


def test_what_is_measured_anew_replaces_what_was_stored():
    changed = replace(ROWS[1], median_ms=7.0)
    found = merge(ROWS, [changed], None)
    assert len(found) == len(ROWS) and changed in found and ROWS[1] not in found
