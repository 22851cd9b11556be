"""`vertex_visibility`: which vertices a camera sees."""

from benchmarks.harness import step_sizes as sizes
from benchmarks.harness.case import Bench, Cost, Inputs
from benchmarks.harness.compile_case import Case, InStep
from benchmarks.harness.scenes import Random, Scene
from benchmarks.harness.sizes import FLOAT, FRAME, PICTURES, measured, runs
from fmlfast.kernels.normals import vertex_normals
from fmlfast.kernels.rasterize import rasterize
from fmlfast.kernels.visibility import LIMIT, SLACK, vertex_visibility


def forward_cost(frames: int, vertices: int, pixels: int) -> Cost:
    """Vertices, normals and the depth of all pixels in, a byte a vertex out."""
    memory = (FLOAT * 6 + 1) * frames * vertices + FLOAT * (pixels + 9 * frames)
    return Cost(memory, frames * vertices * 60)


def case(scene: Scene) -> Bench:
    """The normals and the picture of the scene itself."""

    def make(device: str, seed: int) -> Inputs:
        views = scene.views(Random(device, seed))
        normals = vertex_normals(views["vertices"], views["triangles"])
        return {
            "vertices": views["vertices"],
            "normals": normals,
            "Ks": views["Ks"],
            "depth": rasterize(**views).depth,
        }

    return measured(
        scene,
        "vertex",
        scene.count * scene.mesh.vertices,
        op="vertex_visibility",
        shape=str(scene),
        make=make,
        run=runs(vertex_visibility),
        differentiable=(),
        forward=forward_cost(scene.count, scene.mesh.vertices, scene.pixels),
    )


CASES = [case(scene) for scene in (*PICTURES, FRAME)]


def compile_cases() -> list[Case]:
    """One launch at full size, about a pixel a vertex."""
    from fmlfast.kernels.visibility_triton import LANES, vertex_visibility_fwd_kernel

    return [
        Case(
            vertex_visibility_fwd_kernel,
            "*fp32 *fp32 *fp32 *fp32 *i1 i32 i32 i32",
            {"LIMIT": LIMIT, "SLACK": SLACK, "BLOCK": LANES},
            24 + 1 + 4,
            "vertex of a frame",
            "a pixel a vertex",
            options={"enable_fp_fusion": False},
            step=InStep("visibility", sizes.VERTICES_OF_FRAMES, LANES),
        )
    ]
