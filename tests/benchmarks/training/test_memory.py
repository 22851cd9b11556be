"""The counter of live memory against tensors of known sizes, and the account of a whole training step."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.harness.markdown import read_between_markers
from benchmarks.training.memory import NAME, LiveMemory

ROOT = Path(__file__).parents[3]


def test_live_bytes_of_known_tensors():
    before = torch.empty(100)
    with LiveMemory() as memory:
        memory.add(before)
        assert memory.live == 400
        memory.enter("first")
        a = torch.zeros(1000)
        views = [a[10:], a.view(10, 100), a.t(), a.add_(1)]
        assert memory.live == 400 + 4000
        b = a.double() + 1  # 8,000 bytes twice while they are added
        assert memory.live == 400 + 4000 + 8000 and memory.peak == 400 + 4000 + 16000
        del a
        assert memory.live == 400 + 4000 + 8000
        views.clear()
        assert memory.live == 400 + 8000
        memory.enter("second")
        c = torch.empty(2, 3, dtype=torch.int64)
        assert memory.live == 400 + 8000 + 48
    most, blocks = memory.highest["second"]
    assert most == memory.live and [(block.shape, block.bytes) for block in blocks] == [("int64 2x3", 48)]
    assert memory.peak_label == "first"
    assert sum(block.bytes for block in memory.at_peak) == memory.peak
    del b, c
    assert memory.live == 400


def test_what_backward_keeps_and_frees_is_counted():
    x = torch.randn(64, 64, requires_grad=True)
    with LiveMemory() as memory:
        loss = x.exp().sin().sum()  # keeps exp's result, and sin's argument, which is the same
        assert memory.live == 64 * 64 * 4 + 4
        loss.backward()
        assert memory.live == 64 * 64 * 4 + 4  # the gradient of x
        assert 3 * 64 * 64 * 4 <= memory.peak <= 5 * 64 * 64 * 4


def test_account_of_a_step(tmp_path: Path):
    pytest.importorskip("triton", reason="Triton is for Linux only")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("TRITON_INTERPRET", None)
    out = tmp_path / "page.md"
    out.write_text(f"# Page\n\n<!-- {NAME}: begin -->\n<!-- {NAME}: end -->\n")
    command = [sys.executable, "-m", "benchmarks.training.memory", "--preset", "cpu", "--device", "cpu"]
    command += ["--out", str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    table = read_between_markers(out, NAME)
    sizes = {name: float(size.replace(",", "")) for name, size in re.findall(r"^\| (.+?) \| ([\d.,]+) \|", table, re.M)}
    total = sizes.pop("**all**")
    assert sum(sizes.values()) == pytest.approx(total, abs=0.05 * len(sizes))
    assert sizes["reflectance basis"] == pytest.approx(32 * 13_856 * 4 / 1e6, abs=0.05)
    assert sizes["LowRankAdam's moments of the reflectance basis"] == pytest.approx(2 * 32 * 13_856 * 4 / 1e6, abs=0.05)
    network = sizes["network's parameters"] + sizes["identity basis, mean reflectance"]
    assert sizes["Adam's moments of all else"] == pytest.approx(2 * network, abs=0.2)
    assert table.startswith(f"Peak: **{total:,.0f} MB**") and "GPU: not measured." in table
    made = [name for name in sizes if name.startswith("made in ")]
    assert {"made in encode", "made in geometry"} <= set(made) and not [name for name in made if ":" in name]
    assert "Counted, not measured" in done.stdout and table in done.stdout
    stages = done.stdout.split("highest moment")[1]
    assert "| not measured |" in stages and "| encode: tower, stage 1 |" in stages
