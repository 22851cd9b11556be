"""`deviation`: how far reflectance is from its mean."""

from benchmarks.harness import step_sizes as sizes
from benchmarks.harness.case import Bench, Cost, Inputs
from benchmarks.harness.compile_case import Case, InStep
from benchmarks.harness.scenes import Random, Scene
from benchmarks.harness.sizes import FLOAT, TRAINING, measured, runs
from fmlfast.kernels.deviation import deviation


def forward_cost(subjects: int, vertices: int) -> Cost:
    """Values and mean in, a number a subject out."""
    return Cost(FLOAT * (3 * (subjects + 1) * vertices + subjects), 9 * subjects * vertices)


def backward_cost(subjects: int, vertices: int) -> Cost:
    """Reads the same and writes gradients of both."""
    return Cost(FLOAT * (6 * (subjects + 1) * vertices + subjects), 9 * subjects * vertices)


def case(scene: Scene) -> Bench:
    """Reflectance near a mean."""
    size = scene.subjects, scene.mesh.vertices

    def make(device: str, seed: int) -> Inputs:
        random = Random(device, seed)
        return {"values": random.uniform(*size, 3), "mean": random.uniform(scene.mesh.vertices, 3)}

    return measured(
        scene,
        "vertex",
        scene.subjects * scene.mesh.vertices,
        op="deviation",
        shape=f"{scene.subjects} subjects, {scene.mesh.vertices:,} vertices",
        make=make,
        run=runs(deviation),
        differentiable=("values", "mean"),
        forward=forward_cost(*size),
        backward=backward_cost(*size),
    )


CASES = [case(scene) for scene in TRAINING]


def compile_cases() -> list[Case]:
    """Launches at 8 subjects."""
    from fmlfast.kernels.deviation_triton import deviation_bwd_kernel, deviation_fwd_kernel

    numbers = 3 * sizes.VERTICES_OF_SUBJECTS / sizes.SUBJECTS
    return [
        Case(
            deviation_fwd_kernel,
            "*fp32 *fp32 *fp32 i32 i32",
            {"BLOCK": 512},
            4 * 9,
            "number of the mean",
            step=InStep("regularisers", numbers, 512, (sizes.SUBJECTS,)),
        ),
        Case(
            deviation_bwd_kernel,
            "*fp32 *fp32 *fp32 *fp32 *fp32 i32 i32",
            {"BLOCK": 512},
            4 * 18,
            "number of the mean",
            step=InStep("regularisers, backward", numbers, 512, (sizes.SUBJECTS,)),
        ),
    ]
