"""Runs the `fmlfast` command in tests."""

import pytest

from fmlfast import cli


def fails(arguments: list[object], capsys: pytest.CaptureFixture[str]) -> str:
    """Runs a command that must fail as the user's mistake; its only line on stderr."""
    with pytest.raises(SystemExit) as caught:
        cli.main([str(a) for a in arguments])
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    return captured.err
