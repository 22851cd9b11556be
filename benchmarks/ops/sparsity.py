"""`chromaticity` and `sparsity`: reflectance is smooth where the image's colour is."""

from functools import cache

from torch import Tensor

from benchmarks.harness import step_sizes as sizes
from benchmarks.harness.case import Bench, Cost, Inputs
from benchmarks.harness.compile_case import Case, InStep
from benchmarks.harness.scenes import Mesh, Random, Scene
from benchmarks.harness.sizes import FLOAT, SUBJECTS, TRAINING, measured, runs
from fmlfast.kernels.common.topology import unique_edges
from fmlfast.kernels.sparsity import TINY, chromaticity, sparsity

EDGE = 16
"""Bytes of an edge, two int64."""
FACE_EDGES = {0: 12_845, 1: 50_692, 2: 201_392}


def chromaticity_cost(subjects: int, frames: int, vertices: int) -> Cost:
    """B subjects of M frames: colours and weights in, two numbers and a byte a vertex out."""
    memory = FLOAT * 4 * subjects * frames * vertices + (FLOAT * 2 + 1) * subjects * vertices
    return Cost(memory, subjects * vertices * (4 * frames + 5))


def forward_cost(subjects: int, vertices: int, edges: int) -> Cost:
    """Reflectance, chromaticity, what is known, and edges in, a loss a subject out; 30 operations an edge."""
    memory = (FLOAT * 5 + 1) * subjects * vertices + EDGE * edges + FLOAT * subjects
    return Cost(memory, 30 * subjects * edges)


def backward_cost(subjects: int, vertices: int, edges: int) -> Cost:
    """Reads the inputs again and writes the gradient of the reflectance."""
    memory = forward_cost(subjects, vertices, edges).bytes + FLOAT * 3 * subjects * vertices
    return Cost(memory, 40 * subjects * edges)


def edge_count(mesh: Mesh) -> int:
    """Edges of a mesh; two triangles of a sphere share each."""
    return mesh.triangles * 3 // 2 if mesh.kind == "sphere" else FACE_EDGES[mesh.detail]


@cache
def _edges(mesh: Mesh, device: str) -> Tensor:  # [N, 2] int64
    return unique_edges(mesh.on(device)[1])


def chromaticity_case(scene: Scene) -> Bench:
    """Colours of noise."""
    size = scene.subjects, scene.frames, scene.mesh.vertices

    def make(device: str, seed: int) -> Inputs:
        random = Random(device, seed)
        return {"colors": random.uniform(*size, 3), "weights": (random.uniform(*size) < 0.4).float()}

    return measured(
        scene,
        "vertex",
        scene.count * scene.mesh.vertices,
        op="chromaticity",
        shape=f"{scene.subjects} x {scene.frames}, {scene.mesh.vertices:,} vertices",
        make=make,
        run=lambda inputs, backend: chromaticity(**inputs, backend=backend),
        differentiable=(),
        forward=chromaticity_cost(*size),
    )


def case(scene: Scene) -> Bench:
    """Skin-like chromaticity, so that the weights are neither 0 nor 1."""
    size = scene.subjects, scene.mesh.vertices, edge_count(scene.mesh)

    def make(device: str, seed: int) -> Inputs:
        random = Random(device, seed)
        shape = scene.subjects, scene.mesh.vertices
        return {
            "reflectance": random.uniform(*shape, 3),
            "chroma": 0.35 + random.normal(*shape, 2, scale=0.01),
            "known": random.uniform(*shape) < 0.8,
            "edges": _edges(scene.mesh, device),
        }

    return measured(
        scene,
        "edge",
        scene.subjects * size[2],
        op="sparsity",
        shape=f"{scene.subjects} subjects, {scene.mesh.vertices:,} vertices",
        make=make,
        run=runs(sparsity),
        differentiable=("reflectance",),
        forward=forward_cost(*size),
        backward=backward_cost(*size),
    )


CASES = [
    *(chromaticity_case(scene) for scene in TRAINING),
    *(case(scene) for scene in (*TRAINING, *SUBJECTS)),
]


def compile_cases() -> list[Case]:
    """Launches at 8 subjects of 4 frames."""
    from fmlfast.kernels.sparsity_triton import chromaticity_fwd_kernel, sparsity_fwd_kernel

    return [
        Case(
            chromaticity_fwd_kernel,
            "*fp32 *fp32 *fp32 *i1 i32 i32",
            {"BLOCK": 256},
            bytes=4 * 16 + 9,
            element="vertex of a subject",
            options={"num_warps": 4},
            step=InStep("regularisers", sizes.VERTICES_OF_SUBJECTS, 256, (sizes.FRAMES,)),
        ),
        Case(
            sparsity_fwd_kernel,
            "*fp32 *fp32 *i1 *i32 *i32 *fp32 *fp32 i32 fp32 fp32 fp32",
            {"TINY": TINY, "BLOCK": 128},
            bytes=25 + 12 + 28 / 8,  # a vertex's lists of edges are read from memory once for 8 subjects
            element="vertex of a subject",
            options={"num_warps": 4},
            step=InStep("regularisers", sizes.VERTICES_OF_SUBJECTS, 128, (sizes.RING,)),
        ),
    ]
