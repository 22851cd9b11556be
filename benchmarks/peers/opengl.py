"""OpenGL in software: Mesa's llvmpipe (MIT), through moderngl (MIT) and EGL.

A frame is sent, drawn and read back at a time, in as many threads as torch had at the first call. Clip space has y
down, so that row 0 is on top.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.harness.case import Inputs, Outputs
from benchmarks.harness.providers import Difference
from benchmarks.peers.common import indices, on_background, to_clip
from benchmarks.peers.opengl_canvas import Picture, canvas, open_context

NAME = "opengl"
GRADIENTS = False
CPU_ONLY = True
_SNAPS = "moves vertices to multiples of 1 / 256 pixel, so pixels at edges differ"
DIFFERS = {
    "rasterize": Difference(_SNAPS, 0.15, 0.0),
    "render": Difference(f"{_SNAPS}; no antialiasing, so outlines are hard", 0.3, 0.0),
}


def available() -> str:
    """Says what is missing: moderngl, EGL or llvmpipe."""
    return open_context()[1]


def _draw(inputs: Inputs, attributes: Tensor | None = None) -> Iterator[Picture]:
    """One picture a frame; `attributes` are [F or 1, V, C]."""
    if inputs.get("cull_backfaces"):
        raise ValueError("not done here: y points down, so that all triangles are mirrored")
    height, width = inputs["height"], inputs["width"]
    clip = to_clip(inputs["vertices"], inputs, height, width)
    triangles = indices(inputs["triangles"], torch.int32)
    for frame, positions in enumerate(clip):
        shared = attributes is not None and len(attributes) == 1
        own = None if attributes is None else attributes[0 if shared else frame]
        yield canvas(height, width).draw(positions, triangles, own)


def rasterize(inputs: Inputs) -> Outputs:
    """Barycentrics [F, H, W, 3], depth [F, H, W], triangles [F, H, W]."""
    drawn = list(_draw(inputs))
    ids = torch.stack([picture.triangle_id for picture in drawn])
    covered = ids >= 0
    barycentrics = torch.stack([picture.barycentrics for picture in drawn])
    depth = torch.stack([picture.w for picture in drawn])  # w of clip space is z of the camera's
    return torch.where(covered[..., None], barycentrics, 0.0), torch.where(covered, depth, torch.inf), ids


def render(inputs: Inputs) -> Outputs:
    """[F, H, W, C]: colours on the background, never antialiased."""
    drawn = list(_draw(inputs, inputs["colors"]))
    ids = torch.stack([picture.triangle_id for picture in drawn])
    return (on_background(torch.stack([picture.attributes for picture in drawn]), (ids >= 0)[..., None], inputs),)


RUNS: dict[str, Callable[[Inputs], Outputs]] = {"rasterize": rasterize, "render": render}
