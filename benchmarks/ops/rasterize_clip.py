"""`rasterize_clip`: what pixels see in clip space, derivatives included, and the gradient of where."""

import torch
from torch import Tensor

from benchmarks.harness.case import Bench, Cost, Inputs, Outputs
from benchmarks.harness.compile_case import Case
from benchmarks.harness.scenes import Random, Scene
from benchmarks.harness.sizes import FLOAT, FRAME, IMAGES, PICTURES, error_of_most, measured
from benchmarks.ops import rasterize as camera_space
from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.rasterize_clip import rasterize_clip
from fmlfast.kernels.rasterize_locate_torch import locate

NEAR, FAR = 100.0, 2000.0
"""mm."""


def forward_cost(frames: int, vertices: int, triangles: int, pixels: float, covered: float) -> Cost:
    """As in camera space, with one more number a vertex and four more a pixel, some 40 operations."""
    cost = camera_space.forward_cost(frames, vertices, triangles, pixels, covered)
    return Cost(cost.bytes + FLOAT * (frames * vertices + 4 * pixels), cost.flops + 40 * pixels)


def backward_cost(frames: int, vertices: int, triangles: int, pixels: float) -> Cost:
    """As in camera space, with one more number a vertex and four more a pixel, some 100 operations."""
    cost = camera_space.backward_cost(frames, vertices, triangles, pixels)
    return Cost(cost.bytes + FLOAT * (2 * frames * vertices + 4 * pixels), cost.flops + 100 * pixels)


def clip_space(
    vertices: Tensor,  # [F, V, 3] camera space
    Ks: Tensor,  # [F, 3, 3]
    height: int,
    width: int,
) -> Tensor:  # [F, V, 4]
    """Projects vertices to clip space, so that a pixel sees what it does through the camera."""
    x, y, w = (vertices @ Ks.mT).unbind(-1)
    z = ((FAR + NEAR) * w - 2 * FAR * NEAR) / (FAR - NEAR)
    return torch.stack([2 * x / width - w, 2 * y / height - w, z, w], -1)


def run(inputs: Inputs, backend: Backend | None) -> Outputs:  # [F, H, W, 3], [F, H, W], [F, H, W, 4], [F, H, W] int32
    """Barycentrics, depth (inf where empty), derivatives and triangles."""
    found = rasterize_clip(**inputs, derivatives=True, backend=backend)
    assert found.derivatives is not None
    return found.barycentrics, found.depth, found.derivatives, found.triangle_id


def reference(inputs: Inputs) -> Outputs:
    """The rays of the pixels meet the triangles that float32 says they see: a vertex moves by rounding alone."""
    single = {"positions": inputs["positions"].detach().float()}
    ids = rasterize_clip(**inputs | single, backend="torch").triangle_id
    return *locate(inputs["positions"], inputs["triangles"], None, ids, derivatives=True), ids


def error(found: Outputs, expected: Outputs) -> float:
    """The error of all numbers where both see one triangle, or the share of pixels that see another one."""
    if len(found) == 4:
        same = found[-1] == expected[-1]
        found, expected = ((*(a[same] for a in some[:-1]), some[-1]) for some in (found, expected))
    return error_of_most(found, expected)


def case(scene: Scene) -> Bench:
    """All frames of a scene, as the camera of `rasterize` sees them."""
    size = scene.count, scene.mesh.vertices, scene.mesh.triangles, scene.pixels

    def make(device: str, seed: int) -> Inputs:
        views = scene.views(Random(device, seed))
        positions = clip_space(views["vertices"], views["Ks"], views["height"], views["width"])
        return {"positions": positions, **{name: views[name] for name in ("triangles", "height", "width")}}

    return measured(
        scene,
        "pixel",
        scene.pixels,
        op="rasterize_clip",
        shape=str(scene),
        make=make,
        run=run,
        differentiable=("positions",),
        forward=forward_cost(*size, scene.pixels * 2 / 3),
        backward=backward_cost(*size),
        reference=reference,
        error=error,
        # A position in the image is rounded by up to 1e-4 pixels, and triangles are half a pixel large.
        tolerance={"forward": 1e-3, "backward": 1e-3},
    )


CASES = [case(scene) for scene in (*PICTURES, FRAME, *IMAGES)]


def compile_cases() -> list[Case]:
    """Launches at full size with all that may be asked for; those without are compiled for camera space."""
    from fmlfast.kernels.rasterize_project_triton import rasterize_clip_project_kernel

    project = Case(
        rasterize_clip_project_kernel,
        "*fp32 *fp32 *fp32 i32 i32 i32",
        {"BLOCK": 128},
        bytes=48,
        element="vertex of a frame",
        options=camera_space.OPTIONS,
    )
    return [
        project,
        *(case for index in ("i32", "i64") for case in camera_space.draw_cases(index, False, clip=True)),
        *camera_space.draw_cases("i32", True, clip=True),
        *(case for index in ("i32", "i64") for case in camera_space.pixel_cases(index, derivatives=True, clip=True)),
        *camera_space.pixel_cases("i32", clip=True),
    ]
