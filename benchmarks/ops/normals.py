"""`vertex_normals`."""

from benchmarks.harness.case import Bench, Cost, Inputs
from benchmarks.harness.scenes import Random, Scene
from benchmarks.ops._sizes import FLOAT, INT, PICTURES, VERTICES, measured, runs
from fmlfast.kernels.normals import vertex_normals


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
