"""How a kernel is launched at full size, so that it can be compiled ahead of time and its instructions be counted."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class InStep:
    """How a training step of the preset "paper" uses a kernel: 8 subjects of 4 frames."""

    stage: str
    """As in the table of benchmarks.training.profile_step."""
    count: float
    """Elements, over all launches."""
    program: float
    """Elements of a program."""
    passes: tuple[float, ...] = ()
    """How often each loop of the machine code is passed, in the order in which they begin."""


@dataclass(frozen=True)
class Case:
    """One way in which a kernel is launched at full size."""

    kernel: Any
    """The `triton.jit` function."""
    types: str
    """Types of the arguments that are no constexpr, in order, such as "*fp32 *i32 i32 fp32"."""
    constexprs: dict[str, Any]
    """Values of the constexpr arguments."""
    bytes: float
    """Bytes that an element must move at least."""
    element: str
    """What an element is: "vertex of a frame", "triangle of a frame", "pixel", ..."""
    variant: str = ""
    """Tells several cases of one kernel apart."""
    options: dict[str, Any] = field(default_factory=dict)
    """Launch options, such as num_warps and enable_fp_fusion."""
    unaligned: tuple[str, ...] = ()
    """Pointers not known to be multiples of 16 bytes."""
    multiples: tuple[str, ...] = ()
    """Sizes and strides that are multiples of 16, for which Triton compiles a kernel of its own with wider loads."""
    step: InStep | None = None
    """None where a training step does without."""
