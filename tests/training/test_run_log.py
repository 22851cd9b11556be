"""metrics.jsonl of runs that go on."""

import json
from pathlib import Path

import pytest
import torch

from fmlfast.training.run_log import Log


@pytest.mark.parametrize(
    "torn",
    [
        '{"step": 3, "lo',
        '{"step": 3}',
        "3",
        "\0\0\0\0",
        pytest.param("[" * 100_000, id="deep"),
        "\udcff",
        '{"step": "3"}\n{"step',
    ],
)
def test_a_last_line_that_a_crash_cut_short_is_left_out(tmp_path: Path, torn: str) -> None:
    path, rows = tmp_path / "metrics.jsonl", [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + torn, "utf-8", "surrogateescape")
    log = Log(tmp_path, 2, 4, tensorboard=False)
    log.write(3, {"a": torch.tensor(1.0)})
    log.close()
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert found[:2] == rows and [row["step"] for row in found] == [1, 2, 3]


def test_steps_after_the_checkpoint_are_written_anew(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("".join(f'{{"step": {step}}}\n' for step in range(1, 6)))
    Log(tmp_path, 3, 9, tensorboard=False).close()
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 3
    Log(tmp_path, 0, 9, tensorboard=False).close()
    assert (tmp_path / "metrics.jsonl").read_text() == ""
