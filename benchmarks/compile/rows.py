"""Makes the lines of the table of compiled kernels."""

from benchmarks.compile import Usage, compile_case
from benchmarks.compile.instructions import WIDTHS, count
from benchmarks.harness.compile_case import Case
from benchmarks.ops import compile_cases


def compiled_row(case: int, target: str, instructions: bool) -> dict[str, object]:
    """Compiles a case, by its number among all: cases themselves cannot be sent to another process."""
    found = compile_cases()[case]
    return row(found, target, compile_case(found, target, instructions))


def row(case: Case, target: str, usage: Usage) -> dict[str, object]:
    """A line of the CSV: what a thread uses and executes, every loop passed once; per element in a training step."""
    found: dict[str, object] = {
        "kernel": case.kernel.__name__,
        "variant": case.variant,
        "target": target,
        "registers": usage.registers,
        "spills": usage.spills,
        "shared_bytes": usage.shared,
        "bytes_per_element": case.bytes,
        "element": case.element,
    }
    once = count(usage.instructions)
    kinds = ("total", "atomics", "fp32", "special", "shared", "branches", "loops")
    numbers = {"instructions" if kind == "total" else kind: getattr(once, kind) for kind in kinds}
    for kind in ("loads", "stores"):
        numbers |= {f"{kind}_{bits}": n for bits, n in zip(WIDTHS, getattr(once, kind), strict=True)}
    found |= {name: int(n) if usage.instructions else "" for name, n in numbers.items()}
    found |= dict.fromkeys(("stage", "elements", "issued_bytes_per_element", "slots_per_element"), "")
    if case.step is not None and target == "sm_90" and usage.instructions:
        if len(case.step.passes) != once.loops:
            raise ValueError(
                f"{case.kernel.__name__}, {case.variant}: {once.loops} loops, passes for {case.step.passes}"
            )
        weighted = count(usage.instructions, case.step.passes)
        found["stage"], found["elements"] = case.step.stage, case.step.count
        found["issued_bytes_per_element"] = round(weighted.issued_bytes * 32 * usage.warps / case.step.program, 2)
        found["slots_per_element"] = round(weighted.total * usage.warps / case.step.program, 3)
    return found
