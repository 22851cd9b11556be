"""Files as they lie on people's disks, and outputs that cannot be written."""

import re
from pathlib import Path

import pytest

from fmlfast.common.folders import files_in, find_file
from fmlfast.common.locks import check_new, check_writable


def test_letter_case_does_not_matter_and_hidden_companions_do_not_count(tmp_path: Path) -> None:
    for name in ("b.OBJ", "a.obj", "._a.obj", ".c.obj", "d.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "folder.obj").mkdir()
    assert [path.name for path in files_in(tmp_path, (".obj",))] == ["a.obj", "b.OBJ"]
    assert files_in(tmp_path / "missing", (".obj",)) == []
    assert find_file(tmp_path, "B.obj") == tmp_path / "b.OBJ" and find_file(tmp_path, "c.obj") is None
    (tmp_path / "B.obj").write_text("")
    assert find_file(tmp_path, "B.obj") == tmp_path / "B.obj"


def test_an_output_that_cannot_be_written_is_named_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for check in (check_new, check_writable):
        for path in (tmp_path / "file" / "out", tmp_path / "file" / "a" / "out"):
            reason = f"{path} cannot be written: {tmp_path / 'file'} is a file; choose another output"
            with pytest.raises(OSError, match=re.escape(reason)):
                check(path)
        with pytest.raises(OSError, match="cannot be written"):
            check(tmp_path / ("x" * 250))
    check_writable(tmp_path / "file")
    assert check_new(tmp_path / "a" / "b" / "out") == tmp_path / "a" / "b" / "out"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(FileExistsError):
        check_new(tmp_path)
