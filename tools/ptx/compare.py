# SPDX-License-Identifier: Apache-2.0
"""Results and gradients of an operation's kernels beside those of its torch backend, and a log of what differs."""

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fmlfast.kernels.common.backend import Backend
from tools.ptx import driver

BACKENDS: tuple[Backend, ...] = ("triton", "torch")
Tensors = Sequence[Tensor | None]


class Log:
    """Counts cases and problems, and writes them down."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.cases = 0
        self.kinds: Counter[str] = Counter()

    def problem(self, case: str, text: str) -> None:
        """Counts what is wrong by its kind, and shows the first two of each."""
        kind = re.sub(r"\d+", "#", text)[:150]
        self.kinds[kind] += 1
        if self.kinds[kind] <= 2:
            print("PROBLEM", case, text[:500], flush=True)
        self.write(case=case, problem=text)

    def write(self, **fields: str) -> None:
        """Adds a line of JSON to the file at `path`."""
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps(fields) + "\n")

    def finish(self, case: str, start: float) -> None:
        """Ends a case: what the emulator found in it is a problem, but for what is benign."""
        self.cases += 1
        for finding in driver.findings:
            if finding.benign:
                self.write(case=case, benign=str(finding))
            else:
                self.problem(case, str(finding))
        driver.clear()
        print(f"{case} {time.time() - start:.1f} s", flush=True)


log = Log()


def same(a: Tensor, b: Tensor) -> bool:
    """Bit by bit, but that all NaN are one."""
    if a.is_floating_point():
        return bool(((a == b) | (a.isnan() & b.isnan())).all())
    return torch.equal(a, b)


def difference(a: Tensor | None, b: Tensor | None, tolerance: float) -> str:
    """What is wrong with a, where b is right: relative to b's largest finite number, NaN and inf in the same places."""
    if a is None or b is None:
        other = a if b is None else b
        return "" if other is None or not other.any() else "one is None"
    if a.shape != b.shape:
        return f"shape {list(a.shape)} for {list(b.shape)}"
    if a.numel() == 0:
        return ""
    a, b = a.detach().double(), b.detach().double()
    if not torch.equal(a.isnan(), b.isnan()):
        return f"NaN at {int(a.isnan().sum())} for {int(b.isnan().sum())}"
    infinite = b.isinf() | a.isinf()
    if not torch.equal(a[infinite], b[infinite]):
        return "inf at other places"
    finite = ~(infinite | b.isnan())
    if not finite.any():
        return ""
    error = float((a - b).abs()[finite].max() / b.abs()[finite].max().clamp(min=1e-30))
    return "" if error <= tolerance else f"error {error:.3g}"


def poisoned(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function whose unwritten memory holds the pattern."""
    with driver.memory.poisoned():
        return function(*arguments)


def unaligned(x: Tensor) -> Tensor:
    """The same numbers, one element behind the beginning of their memory."""
    memory = torch.empty(x.numel() + 1, dtype=x.dtype)
    memory[1:] = x.flatten()
    return memory[1:].view(x.shape)


def compare(
    case: str,
    function: Callable[[list[Any], Backend], Any],
    tensors: Tensors,
    needed: Sequence[bool | int],
    tolerance: float | Sequence[float] = 1e-4,
    moved: bool = False,
    exact: bool = False,
) -> list[Tensor]:
    """Results and gradients of both backends; returns those of the kernels."""
    start, results = time.time(), []
    for backend in BACKENDS:
        leaves = [
            None if x is None else (unaligned(x.detach()) if moved and backend == "triton" else x.detach().clone())
            for x in tensors
        ]
        leaves = [x.requires_grad_() if n and x is not None else x for x, n in zip(leaves, needed, strict=True)]
        out = poisoned(function, leaves, backend)
        outs = [out] if isinstance(out, Tensor) else [o for o in out if o is not None]
        torch.manual_seed(5)
        pairs = [(o, torch.randn(o.shape)) for o in outs if o.is_floating_point() and o.requires_grad]
        inputs = [x for x in leaves if x is not None and x.requires_grad]
        grads: tuple[Tensor | None, ...] = ()
        if pairs and inputs:
            with driver.memory.poisoned():
                grads = torch.autograd.grad([o for o, _ in pairs], inputs, [u for _, u in pairs], allow_unused=True)
        results.append(([o.detach() for o in outs], list(grads)))
    (outs, grads), (expected, expected_grads) = results
    tolerances = tolerance if isinstance(tolerance, Sequence) else [tolerance] * 2
    for n, (a, b) in enumerate(zip(outs, expected, strict=True)):
        wrong = (
            ""
            if same(a, b)
            else f"differs at {int((a != b).sum())} of {a.numel()}"
            if exact
            else difference(a.float(), b.float(), tolerances[0])
        )
        if wrong:
            log.problem(case, f"result {n}: {wrong}")
    for n, (a, b) in enumerate(zip(grads, expected_grads, strict=True)):
        if wrong := difference(a, b, tolerances[1]):
            log.problem(case, f"gradient {n}: {wrong}")
    log.finish(case, start)
    return outs
