"""Tables of errors on disk: none is lost."""

import json
from pathlib import Path
from typing import Any

import pytest

from fmlfast.evaluation.stored_table import store_table
from tools.torture.children import all_at_once


def stored(folder: Path) -> dict[str, Any]:
    return {path.name: json.loads(path.read_text()) for path in folder.iterdir()}


def test_every_table_keeps_those_before_it(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    tables = [{"data": "a", "split": "test", "error": error} for error in (1.0, 2.0, 3.0)]
    tables.append({"data": "b", "split": "val", "error": 4.0})
    for table in tables:
        store_table(path, table, ("data", "split"))
        store_table(path, table, ("data", "split"))  # the same again is no other table
    assert stored(tmp_path) == {
        "evaluation-a-test.json": tables[0],
        "evaluation-a-test-2.json": tables[1],
        "evaluation-a-test-3.json": tables[2],
        "evaluation.json": tables[3],
    }


@pytest.mark.parametrize("damaged", [b"damaged", b"[1]", b"\xff\xfe", b"null", pytest.param(b"[" * 100_000, id="deep")])
def test_a_damaged_table_is_kept_too(tmp_path: Path, damaged: bytes) -> None:
    (tmp_path / "scans.json").write_bytes(damaged)
    store_table(tmp_path / "scans.json", {"scans": "now"}, ("scans",))
    assert (tmp_path / "scans-unknown.json").read_bytes() == damaged


def test_names_stay_in_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "run" / "scans.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"scans": "../../away"}))
    store_table(path, {"scans": "x"}, ("scans",))
    assert sorted(file.name for file in path.parent.iterdir()) == ["scans-away.json", "scans.json"]
    path.write_text(json.dumps({"scans": "a\0" * 900}))
    store_table(path, {"scans": "x"}, ("scans",))
    assert (path.parent / f"scans-{'a' * 100}.json").exists()


def test_processes_that_end_at_once_keep_each_other_s(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    children = 5

    def write_all() -> None:
        for number in range(4):
            store_table(tmp_path / "scans.json", {"scans": "s", "number": number}, ("scans",))

    assert all_at_once([write_all] * children) == [0] * children
    assert len(stored(tmp_path)) == 4 * children
