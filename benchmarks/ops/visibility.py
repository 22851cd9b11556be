"""`vertex_visibility`: which vertices a camera sees."""

from benchmarks.harness.case import Bench, Cost, Inputs
from benchmarks.harness.scenes import Random, Scene
from benchmarks.ops._sizes import FLOAT, FRAME, PICTURES, measured, runs
from fmlfast.kernels.normals import vertex_normals
from fmlfast.kernels.rasterize import rasterize
from fmlfast.kernels.visibility import vertex_visibility


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
