# SPDX-License-Identifier: Apache-2.0
"""The tests of the kernels with their compiled PTX, executed: `python -m tools.ptx.check [--quick]`, for machines
without a GPU. Fails where a test fails, a launch did something that compute-sanitizer would report, or worse, or a
kernel was not launched at all."""

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
OWN = ["tools/ptx/test_emulator.py", "tools/ptx/test_compiled.py"]
"""Tests of the emulator, and what only compiled kernels show."""
LARGE = ["tools/ptx/test_large.py"]
"""Tensors of more than 2^31 elements."""
WHOLE = [
    "tests/test_backends.py::test_a_step_of_either_backend_is_the_same",
    "tests/training/test_train.py::test_either_backend_trains_the_same",
    "tools/ptx/test_whole.py",
]
"""Training and reconstruction by kernels, at small sizes."""
TESTS = [
    "tests/kernels",
    "tests/benchmarks/ops/test_cases.py",
    "tests/model/test_lighting.py",
    "tests/nvdiffrast/test_pictures.py",
    "tests/test_optim.py",
    "tests/test_renderer.py",
    "tests/test_renderer_gradients.py",
]
"""That launch kernels."""
WITHOUT = ["test_compile", "test_imports", "test_opengl", "test_topology"]
"""Among them those that do not, or launch none by this driver."""
QUICK = [
    "tests/kernels/test_deform.py::test_many_programs_and_frames_one_by_one",
    "tests/kernels/test_interpolate.py::test_kernels_match_the_reference",
    "tests/kernels/test_kernel_contracts.py",
    "tests/kernels/test_low_rank_adam.py",
    "tests/kernels/test_normals.py",
    "tests/kernels/test_sparsity.py",
]
"""Every kernel once, most by test_kernel_contracts, and where faults were found that the interpreter cannot see."""


def missing() -> str | None:
    """What is not there that the emulator needs."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    return "gcc is not installed" if shutil.which("gcc") is None else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a subset for every change, some minutes")
    parser.add_argument("--capability", type=int, choices=(80, 90), default=90, help="of the GPU: sm_80 or sm_90")
    parser.add_argument("--jobs", type=int, default=2, help="processes; 0 runs the tests in pytest's own")
    parser.add_argument("tests", nargs="*", help="files instead, not all of whose kernels are asked for")
    arguments = parser.parse_args()
    if reason := missing():
        print(f"skipped: {reason}")
        return 0
    ignored = [f"--ignore-glob=*/{name}*" for name in WITHOUT]
    chosen = OWN + LARGE + (QUICK if arguments.quick else WHOLE + TESTS)
    tests = arguments.tests or ["--every-kernel", *chosen]
    command = [sys.executable, "-m", "pytest", "-p", "tools.ptx.plugin", "-n", str(arguments.jobs), *ignored, *tests]
    environment = os.environ | {"PTX_CAPABILITY": str(arguments.capability)}
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
