"""The folder of unfinished work: settings that must agree, windows that are kept, and the end."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fmlfast.reconstruction.track.estimate import Track
from fmlfast.reconstruction.track.project import Project, TrackSettings, unfinished

SETTINGS = TrackSettings("/films/a.mp4", 100, 1.5, "abc", 10, 1024, None, None)


def window(first: int, count: int = 3) -> Track:
    return Track(
        torch.arange(first, first + count),
        torch.arange(first, first + count).double() / 25,
        torch.ones(count, dtype=torch.bool),
        torch.eye(3).expand(count, 3, 3),
        torch.rand(count, 3),
        torch.rand(count, 2),
        torch.rand(count, 9, 3),
        torch.rand(count, 68, 2),
    )


def test_work_goes_on_with_the_same_settings(tmp_path: Path) -> None:
    settings = replace(SETTINGS, cameras=[[[1.0, 0.0, 2.0], [0.0, 1.0, 2.0], [0.0, 0.0, 1.0]]])
    first = Project.open(unfinished(tmp_path / "out"), settings)
    assert first.folder == tmp_path / "out.partial"
    assert Project.open(unfinished(tmp_path / "out"), settings) == first


@pytest.mark.parametrize(
    ("name", "value"),
    [("video", "/films/b.mp4"), ("bytes", 101), ("modified", 2.5), ("model", "d"), ("refine", 0), ("texture", 0),
     ("seconds", 1.0), ("cameras", [[[1.0]]])],
)  # fmt: skip
def test_other_settings_are_refused_by_name(tmp_path: Path, name: str, value: object) -> None:
    Project.open(unfinished(tmp_path / "out"), SETTINGS)
    with pytest.raises(ValueError, match=rf"out\.partial holds work .* other settings \({name}\); remove it"):
        Project.open(unfinished(tmp_path / "out"), replace(SETTINGS, **{name: value}))  # type: ignore[arg-type]


def test_windows_are_read_as_they_were_stored(tmp_path: Path) -> None:
    project = Project.open(unfinished(tmp_path / "out"), SETTINGS)
    windows = [window(0), window(3, 2), window(5)]
    for number, stored in enumerate(windows):
        project.add_window(1, 4, number, stored)
    found = project.windows(1, 4)
    assert len(found) == 3
    for a, b in zip(found, windows, strict=True):
        assert all(torch.equal(x, y) and x.dtype == y.dtype for x, y in zip(a.tensors(), b.tensors(), strict=True))
    assert project.windows(0, 4) == project.windows(1, 5) == []


def test_results_move_and_the_rest_is_removed(tmp_path: Path) -> None:
    project, out = Project.open(unfinished(tmp_path / "out"), SETTINGS), tmp_path / "out"
    (project.person(0) / "face").mkdir(parents=True)
    (project.folder / "overlay.mp4").write_bytes(b"film")
    project.piece("overlay", 0).parent.mkdir()
    project.piece("overlay", 0).write_bytes(b"piece")
    project.finish(out)
    assert sorted(p.name for p in out.iterdir()) == ["overlay.mp4", "person-0"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_results_that_are_there_are_not_overwritten(tmp_path: Path) -> None:
    project, out = Project.open(unfinished(tmp_path / "out"), SETTINGS), tmp_path / "out"
    project.person(0).mkdir()
    out.mkdir()
    with pytest.raises(FileExistsError, match="out exists"):
        project.finish(out)
    assert project.person(0).is_dir() and list(out.iterdir()) == []
