"""The sizes that operations are measured at, and what their cases have in common."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness.case import Bench, Inputs, Outputs
from benchmarks.harness.scenes import Scene, face, sphere_image, sphere_of
from fmlfast.kernels.common.backend import Backend

FLOAT = INT = 4
"""Bytes of a float32 and of an int32."""
NODES, WEIGHTS, EXPRESSIONS = 521, 8, 51
"""Nodes of the template's graph, those that move a vertex, and the template's expressions."""
DIMENSIONS = {"gpu": 500, "cpu": 32, "test": 11}
"""Reflectance dimensions of the presets "paper" and "cpu", and of the tests."""

PAPER = Scene(8, 4, face(2), 240, "gpu")
"""A training step of the preset "paper"."""
SMALL = Scene(8, 4, face(0), 128, "cpu")
"""A training step of the preset "cpu"."""
TINY = Scene(2, 2, sphere_of(200), 24, "test")
TRAINING = (PAPER, SMALL, TINY)
PICTURES = (PAPER, SMALL, Scene(1, 2, sphere_of(200), 24, "test"))
"""The same for operations that know nothing of subjects, whose time in the interpreter goes with the frames."""
FRAME = Scene(1, 1, face(2), 240, "cpu")
"""One frame of the preset "paper", which a CPU can do."""

SUBJECTS = tuple(
    replace(scene, subjects=b, suites=suite, sweep="subjects", x=b)
    for scene, suite in ((PAPER, "gpu"), (SMALL, "cpu"))
    for b in (1, 8, 32)
)
"""Subjects of a batch."""
IMAGES = (
    *(Scene(1, 4, face(2), size, "gpu", "image", size) for size in (240, 512, 1024, 2048)),
    *(Scene(1, 1, face(2), size, "cpu", "image", size) for size in (240, 512, 1024, 2048)),
)
"""Sides of the image, one mesh."""
VERTICES = tuple(
    Scene(1, frames, mesh, sphere_image(mesh), suite, "vertices", mesh.vertices)
    for suite, frames, sizes in (
        ("gpu", 4, (3_000, 30_000, 100_000, 300_000, 1_000_000)),
        ("cpu", 1, (3_000, 30_000, 500_000)),
    )
    for mesh in map(sphere_of, sizes)
)
"""Vertices of a sphere, in images that grow with it."""


def measured(scene: Scene, per: str, count: float, **fields: Any) -> Bench:
    """A case where the scene stands, with `count` elements of the name `per`."""
    suites = frozenset(scene.suites.split())
    return Bench(suites=suites, sweep=scene.sweep, x=float(scene.x), element=per, elements=float(count), **fields)


def runs(op: Callable[..., Tensor]) -> Callable[[Inputs, Backend | None], Outputs]:
    """A case's `run` for an operation with one result, whose arguments are the inputs."""
    return lambda inputs, backend: (op(**inputs, backend=backend),)


def error_of_most(found: Outputs, expected: Outputs) -> float:
    """As `largest_error`, but for one number in 5,000: where rounding decides, float64 may see another pixel.

    Small results leave out nothing.
    """
    errors = []
    for a, b in zip(found, expected, strict=True):
        if not b.is_floating_point():
            errors.append((a != b).double().mean())
            continue
        same = (a == b) | (a.isnan() & b.isnan())
        size = b.abs().masked_fill(~b.isfinite(), 0.0).max().clamp(min=1e-30)
        error = (a.double() - b).abs().masked_fill(same, 0.0).nan_to_num(torch.inf, torch.inf).flatten()
        errors.append(error.kthvalue(len(error) - len(error) // 5_000).values / size)
    return float(torch.stack(errors).max())
