"""Folders that the viewer opens, and what it says of others."""

from pathlib import Path

import pytest

from fmlfast import cli
from fmlfast.common.termination import ERROR

pytest.importorskip("viser")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "nothing is no run, result or tracked video; make a result with fmlfast reconstruct"),
        (["nothing", "a", "b"], "3 folders given; name a run, a tracked video, or one or two results"),
        (["--host", "192.0.2.1"], "--host 192.0.2.1: "),
    ],
)
def test_errors_say_what_to_name(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["view", *arguments])
    assert stopped.value.code == ERROR
    assert message in capsys.readouterr().err


def test_a_run_is_not_compared_with_a_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(SystemExit):
        cli.main(["view", str(tmp_path), str(tmp_path)])
    assert "is a run, and only results are compared" in capsys.readouterr().err


def test_without_viser_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(__import__("sys").modules, "viser", None)
    with pytest.raises(SystemExit):
        cli.main(["view"])
    assert "pip install 'fmlfast[viewer]'" in capsys.readouterr().err
