"""Outputs that cannot be written are noticed before the work."""

import errno
import tempfile
from pathlib import Path
from typing import Any

import pytest

from fmlfast.cli.export import export
from fmlfast.cli.reconstruct import reconstruct
from fmlfast.data.synthetic import calibrate as calibration
from fmlfast.evaluation.run import evaluate_run
from fmlfast.evaluation.scans.protocol import evaluate_scans
from fmlfast.model.fml import FML
from fmlfast.reconstruction import pipeline
from fmlfast.reconstruction.result import Reconstruction
from fmlfast.reconstruction.track.run import track


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be written, and whoever begins to work fails the test."""

    def refuse(*_: Any, **__: Any) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    def work(*_: Any, **__: Any) -> None:
        raise AssertionError("worked before it looked whether the output can be written")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    monkeypatch.setattr(FML, "load", work)
    monkeypatch.setattr(Reconstruction, "load", work)
    monkeypatch.setattr(pipeline, "read_photos", work)
    monkeypatch.setattr(calibration, "read_folder", work)


@pytest.mark.parametrize(
    ("command", "output"),
    [
        (lambda folder: reconstruct((folder / "a.png",), out=folder / "out"), "out"),
        (lambda folder: reconstruct((folder / "a.png",), out=folder / "out", face="all"), "out"),
        (lambda folder: track(folder / "a.mp4", folder / "out"), "out"),
        (lambda folder: export(folder, out=folder / "out"), "out/head"),
        (lambda folder: evaluate_run(folder, folder), "evaluation.json"),
        (lambda folder: evaluate_scans(folder, folder, refine=0), "scans.json"),
        (lambda folder: calibration.calibrate(folder, "mm"), "surface.txt"),
    ],
)
def test_a_place_that_cannot_be_written_is_an_error_before_the_work(
    tmp_path: Path, read_only: None, command: Any, output: str
) -> None:
    with pytest.raises(OSError, match="cannot be written: Permission denied; choose another output") as caught:
        command(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / output))
