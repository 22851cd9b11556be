"""Choice of the backend, torch or Triton, and what kernels need to know about where they run."""

import importlib.util
import os
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor

Backend = Literal["torch", "triton"]

HAS_TRITON = importlib.util.find_spec("triton") is not None
INTERPRETER_LANES = 1 << 15
"""Lanes of a program in Triton's interpreter, whose cost goes with the operations and not with the lanes."""


def interpreting() -> bool:
    """Whether Triton kernels run in its interpreter, on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def choose_backend(backend: Backend | None, tensor: Tensor) -> Backend:
    """`backend`, or the default for the tensor's device: "triton" on a GPU, "torch" elsewhere.

    Raises ValueError where that backend cannot run on this tensor: there is no silent fallback.
    """
    if backend is None:
        backend = "triton" if tensor.is_cuda else "torch"
    if backend == "torch":
        return backend
    if backend != "triton":
        raise ValueError(f"backend must be 'torch', 'triton' or None, not {backend!r}")
    if not HAS_TRITON:
        raise ValueError("backend 'triton' needs Triton, which is not installed here: pip install triton, or 'torch'")
    if not tensor.is_cuda and not interpreting():
        raise ValueError(
            f"backend 'triton' needs tensors on a GPU, these are on {tensor.device}: move them, choose 'torch', or set "
            "TRITON_INTERPRET=1 to try the kernels slowly on the CPU"
        )
    if tensor.dtype != torch.float32:
        raise ValueError(f"backend 'triton' computes in float32, not {tensor.dtype}: convert, or choose 'torch'")
    return backend


def lanes(default: int) -> int:
    """Elements a program handles: `default` on a GPU, at least INTERPRETER_LANES in the interpreter."""
    return max(default, INTERPRETER_LANES) if interpreting() else default


def on_device(tensor: Tensor) -> AbstractContextManager[object]:
    """Makes the tensor's GPU the one that kernels are launched on."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
