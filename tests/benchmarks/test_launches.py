"""Host time of launches, measured without a GPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(600)
def test_launches_are_counted_and_timed_without_a_gpu(tmp_path: Path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "benchmarks.launches", "--only", "shade"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = re.findall(r"\| (shade_vertices.*) \| (\d+) \| (\d+) \| (\d+) \|", done.stdout)
    assert [(name, int(count)) for name, count, *_ in lines] == [
        ("shade_vertices", 2),  # rows of positions, too
        ("shade_vertices, with backward", 5),
    ]
    assert all(0 < int(launching) < int(host) for *_, host, launching in lines)
