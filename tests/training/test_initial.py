"""A run may start from another model: its settings come with its weights, and others are refused by name."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import train
from fmlfast.model import pretrained
from fmlfast.model.fml import FML
from fmlfast.training.initial import SHIPPED, load_initial
from tests.helpers.small_model import SMALL


def test_the_shipped_model_is_one_to_start_from(model: FML, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model.save(tmp_path)
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    started = load_initial(SHIPPED, SMALL)
    assert all(torch.equal(a, b) for a, b in zip(started.parameters(), model.parameters(), strict=True))


def test_other_settings_are_named_as_flags(model: FML, tmp_path: Path) -> None:
    model.save(tmp_path)
    wanted = replace(SMALL, level=1, smooth_basis=False, channels=(8,), complement_rank=None)
    with pytest.raises(ValueError, match="has --model.level 0 --model.channels 8 16 --model.complement-rank") as error:
        load_initial(tmp_path, wanted)
    assert str(error.value).endswith("10 --model.smooth-basis; train with these settings, or without --init")


def test_training_takes_the_settings_of_the_model_it_starts_from(
    model: FML, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model.save(tmp_path / "first")
    configs: list[train.Config] = []
    monkeypatch.setattr(train, "train", configs.append)
    train.main(["--preset", "cpu", "--init", str(tmp_path / "first"), "--steps", "3"])
    train.main(["--preset", "cpu", "--init", str(tmp_path / "first"), "--model.level", "1"])
    train.main(["--preset", "cpu"])
    assert [config.model for config in configs] == [SMALL, replace(SMALL, level=1), train.PRESETS["cpu"].model]
    assert configs[0].steps == 3
    with pytest.raises(SystemExit) as stopped:
        train.main(["--init", str(tmp_path / "none")])
    assert stopped.value.code == 2 and "none is not a finished run" in capsys.readouterr().err


def test_the_commands_module_is_the_same_file() -> None:
    link = Path(train.__file__).parent / "fmlfast" / "cli" / "train.py"
    assert link.is_symlink() and link.resolve() == Path(train.__file__).resolve() and "train" in sys.modules
