"""Every kernel compiles ahead of time for NVIDIA and AMD GPUs without spilling a register."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is for Linux only")

from benchmarks.compile.instructions import WIDTHS, Instruction, amd, count, sass
from benchmarks.compile.static import NAME, markdown
from benchmarks.harness.markdown import read_between_markers

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "benchmarks" / "results" / "compile_report.csv"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_kernel_compiles_for_every_target_without_spills(tmp_path: Path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("TRITON_INTERPRET", None)  # the interpreter replaces the functions that are compiled here
    out = tmp_path / "report.csv"
    # Without NVIDIA's disassembler, which would take as long as the compiler.
    targets = ["--out", str(out), "--count", "gfx942"]
    command = [sys.executable, "-m", "benchmarks.compile", *targets]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    table = rows(out)
    assert {(r["kernel"], r["target"]) for r in table if r["spills"] != "0"} == set()
    written = {
        name
        for path in (ROOT / "kernels").rglob("*_triton.py")
        for name in re.findall(r"^def (\w+_kernel)\(", path.read_text(), re.MULTILINE)
    }
    expected = {(name, target) for name in written for target in ("sm_80", "sm_90", "gfx942")}
    assert {(r["kernel"], r["target"]) for r in table} == expected
    assert all(int(r["instructions"]) > 20 for r in table if r["target"] == "gfx942")
    committed = {(r["kernel"], r["variant"], r["target"]) for r in rows(REPORT)}
    assert {(r["kernel"], r["variant"], r["target"]) for r in table} == committed, "run python -m benchmarks.compile"


def test_static_table_is_that_of_the_report():
    table = rows(REPORT)
    shown = read_between_markers(ROOT / "docs" / "performance.md", NAME)
    assert shown == markdown(table), "run python -m benchmarks.compile"
    in_step = {r["kernel"] for r in table if r["stage"]}
    assert {"deform_fwd_kernel", "rasterize_micro_kernel", "low_rank_adam_kernel"} <= in_step
    row = next(r for r in table if r["stage"] and r["kernel"] == "deviation_fwd_kernel")
    # A mean of 4 bytes and 8 subjects of as many, in 16 loads of 32 bits a thread with 4 numbers; a sum a program.
    assert float(row["issued_bytes_per_element"]) == pytest.approx(4 * 9, rel=0.3)


AMD = """
kernel:                                 ; @kernel
; %bb.0:
\ts_load_dwordx2 s[2:3], s[0:1], 0x0
\tglobal_load_dwordx4 v[0:3], v4, s[2:3]
.LBB0_1:                                ; outer
\tglobal_load_ushort v1, v4, s[2:3]
.LBB0_2:                                ; inner
\tv_pk_fma_f32 v[0:1], v[2:3], v[2:3], v[0:1]
\tv_rcp_f32_e32 v1, v2
\tds_read_b32 v1, v2
\ts_cbranch_scc1 .LBB0_2
\tglobal_atomic_smin_x2 v[0:1], v[2:3], s[2:3]
\ts_cbranch_scc0 .LBB0_1
\tglobal_store_dword v1, v4, s[2:3]
\ts_cbranch_scc0 .LBB0_3
.LBB0_3:
\ts_endpgm
; -- End function
\tv_add_f32 v1, v1, v1
"""


def test_instructions_of_a_loop_count_as_often_as_it_is_passed():
    once, often = count(amd(AMD)), count(amd(AMD), (3, 10))
    assert (once.total, once.loops, once.branches) == (12, 2, 3)
    assert dict(zip(WIDTHS, once.loads, strict=True)) == {8: 0, 16: 1, 32: 0, 64: 0, 96: 0, 128: 1}
    assert often.loads == (0, 3, 0, 0, 0, 1) and often.stores == (0, 0, 1, 0, 0, 0)
    assert (often.fp32, often.special, often.shared, often.atomics) == (30, 30, 30, 3)
    assert often.issued_bytes == 16 + 3 * 2 + 4


def test_machine_code_is_read(tmp_path: Path):
    lines = ["LDG.E R1, desc[UR6][R2.64] ;", "@!P0 BRA `(.L_x_0) ;", "EXIT ;"]
    code = [".L_x_0:", *(f"        /*{16 * i:04x}*/                   {line}" for i, line in enumerate(lines))]
    tool = tmp_path / "nvdisasm"
    tool.write_text("#!/bin/sh\ncat <<'END'\n" + "\n".join([*code, "$slow:", code[1], "END"]) + "\n")
    tool.chmod(0o755)
    assert sass(b"", tmp_path, tmp_path) == [
        Instruction("LDG.E", (0,)),
        Instruction("BRA", (0,)),
        Instruction("EXIT"),
    ]
    names = [
        "LDG.E.64.CONSTANT",
        "LDG.E.U8",
        "STG.E.128",
        "REDG.E.MIN.S64.STRONG.GPU",
        "FFMA.FTZ",
        "MUFU.RCP",
        "STS.64",
    ]
    found = count([Instruction(name) for name in names])
    assert found.loads == (1, 0, 0, 1, 0, 0) and found.stores == (0, 0, 0, 0, 0, 1)
    assert (found.atomics, found.fp32, found.special, found.shared) == (1, 1, 1, 1)
