"""`vertex_normals`."""

from benchmarks.harness import step_sizes as sizes
from benchmarks.harness.case import Bench, Cost, Inputs
from benchmarks.harness.compile_case import Case, InStep
from benchmarks.harness.scenes import Random, Scene
from benchmarks.harness.sizes import FLOAT, INT, PICTURES, VERTICES, measured, runs
from fmlfast.kernels.normals import RESOLUTION, vertex_normals


def forward_cost(frames: int, vertices: int, triangles: int) -> Cost:
    """F frames of V vertices in T triangles: the cross product of each and its sum at three corners, a length each."""
    memory = FLOAT * 6 * frames * vertices + INT * 3 * triangles
    return Cost(memory, frames * (24 * triangles + 9 * vertices))


def backward_cost(frames: int, vertices: int, triangles: int) -> Cost:
    """Reads vertices and upstream and writes a gradient; normals are made again, and two cross products a triangle."""
    memory = FLOAT * 9 * frames * vertices + INT * 3 * triangles
    return Cost(memory, frames * ((24 + 54) * triangles + 29 * vertices))


def case(scene: Scene) -> Bench:
    """All frames of a scene."""
    size = scene.count, scene.mesh.vertices, scene.mesh.triangles

    def make(device: str, seed: int) -> Inputs:
        views = scene.views(Random(device, seed))
        return {name: views[name] for name in ("vertices", "triangles")}

    return measured(
        scene,
        "vertex",
        scene.count * scene.mesh.vertices,
        op="vertex_normals",
        shape=str(scene),
        make=make,
        run=runs(vertex_normals),
        differentiable=("vertices",),
        forward=forward_cost(*size),
        backward=backward_cost(*size),
    )


CASES = [case(scene) for scene in (*PICTURES, *VERTICES)]


def compile_cases() -> list[Case]:
    """Launches at full size; bytes with positions and gradients of a frame in cache."""
    from fmlfast.kernels.common.rows_triton import pad_rows_kernel
    from fmlfast.kernels.normals_triton import (
        LANES,
        area_vectors_bwd_kernel,
        normalization_bwd_kernel,
        vertex_normals_fwd_kernel,
    )

    block, per = {"BLOCK": LANES}, "vertex of a frame"

    def pad(stage: str, vectors: float) -> Case:
        step = InStep(stage, vectors, LANES)
        return Case(pad_rows_kernel, "*fp32 *fp32 i32", block, 12 + 16, "vector", f"in {stage}", step=step)

    step = InStep("shading, backward", sizes.VERTICES_OF_FRAMES, LANES, (sizes.RING,))
    return [
        pad("shading", sizes.VERTICES_OF_FRAMES),
        pad("regularisers", sizes.VERTICES_OF_SUBJECTS),
        pad("shading, backward", sizes.VERTICES_OF_FRAMES),
        Case(
            vertex_normals_fwd_kernel,
            "*fp32 *i32 *i32 *fp32 *fp32 i32",
            {"RESOLUTION": RESOLUTION} | block,
            16 + 16,
            per,
        ),
        Case(normalization_bwd_kernel, "*fp32 *fp32 *fp32 *fp32 i32", block, 28 + 16, per),
        Case(area_vectors_bwd_kernel, "*fp32 *i32 *i32 *fp32 *fp32 i32", block, 32 + 12, per, step=step),
    ]
