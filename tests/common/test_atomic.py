"""Files that are whole or not at all, whatever happens while they are written."""

import errno
import os
import resource
from itertools import count
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fmlfast.common.atomic import atomic_folder, atomic_path
from fmlfast.common.locks import lock_folder
from fmlfast.common.tensor_file import write_tensors
from tools.torture.children import forked, killed_at

pytest.importorskip("fcntl")


def test_killed_at_any_operation_the_file_is_the_old_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "table.json"

    def write(text: str) -> None:
        with atomic_path(path) as temporary:
            temporary.write_text(text)

    seen = set()
    write("old")
    for at in count():
        write("old")
        if not killed_at(lambda: write("new"), at):
            break
        seen.add(path.read_text())
        with atomic_path(tmp_path / "other") as temporary:
            temporary.write_text("")
        assert {entry.name for entry in tmp_path.iterdir()} == {"table.json", "other"}
    assert at > 10 and seen == {"old", "new"}


def test_killed_at_any_operation_a_folder_is_whole_or_absent(tmp_path: Path) -> None:
    for at in count():
        out = tmp_path / f"run-{at}" / "out"

        def make(out: Path = out) -> None:
            with atomic_folder(out) as folder:
                for name in "ab":
                    (folder / name).write_text(name)

        cut = killed_at(make, at)
        if not out.exists():
            make()  # the next one is not hindered
        assert {path.name: path.read_text() for path in out.iterdir()} == {"a": "a", "b": "b"}
        with atomic_path(out.parent / "other") as temporary:
            temporary.write_text("")
        assert {path.name for path in out.parent.iterdir()} == {"out", "other"}
        if not cut:
            break
    assert at > 10


def test_a_full_disk_is_named_and_leaves_the_old(tmp_path: Path) -> None:
    texts, tensors = tmp_path / "texts.json", tmp_path / "tensors.safetensors"
    texts.write_text("old")
    tensors.write_text("old")

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        with pytest.raises(OSError, match="texts.json") as caught, atomic_path(texts) as temporary:
            temporary.write_bytes(bytes(20_000))
        assert caught.value.errno == errno.EFBIG
        with pytest.raises(OSError, match="tensors.safetensors"), atomic_path(tensors) as temporary:
            write_tensors(temporary, {"a": torch.zeros(20_000)})

    assert forked(fill) == 0
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {texts.name: "old", tensors.name: "old"}


def test_a_disk_without_any_room_is_named_too(tmp_path: Path) -> None:
    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
        with pytest.raises(OSError, match=str(tmp_path)), atomic_path(tmp_path / "texts.json") as temporary:
            temporary.write_text("new")
        with pytest.raises(OSError, match=str(tmp_path)), lock_folder(tmp_path):
            pass

    assert forked(fill) == 0
    with lock_folder(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("umask", [0o022, 0o007])
def test_permissions_follow_the_umask(tmp_path: Path, umask: int) -> None:
    path, values = tmp_path / "a.safetensors", torch.arange(6.0).view(2, 3)

    def write() -> None:
        os.umask(umask)
        write_tensors(path, {"a": values.mT}, {"made": "here"})

    assert forked(write) == 0
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask
    assert torch.equal(load_file(path)["a"], values.mT)


def test_everything_is_on_the_disk_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    happened, replace = [], os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: happened.append(os.readlink(f"/proc/self/fd/{handle}")))
    monkeypatch.setattr(os, "replace", lambda a, b: (happened.append("renamed"), replace(a, b)))
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("no /proc here")
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_text("x")
    before, after = happened[: happened.index("renamed")], happened[happened.index("renamed") + 1 :]
    assert sorted(Path(name).name for name in before) == ["deep", "file", "out"] and after == [str(tmp_path)]
