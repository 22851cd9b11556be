"""`low_rank_adam_`: a decoder's basis, updated from the factors of its gradient.

benchmarks/peers/torch_adam.py does it with the gradient written out.
"""

import torch

from benchmarks.harness import step_sizes as sizes
from benchmarks.harness.case import Bench, Cost, Inputs, Outputs
from benchmarks.harness.compile_case import Case, InStep
from benchmarks.harness.scenes import Random, Scene
from benchmarks.harness.sizes import DIMENSIONS, FLOAT, PAPER, SMALL, TRAINING, measured
from benchmarks.ops.blendshape import padded, swept
from fmlfast.kernels.blendshape import pad_columns
from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.low_rank_adam import low_rank_adam_

RATE, BETAS, EPS = 1e-3, (0.9, 0.999), 1e-8
STEP = 10.0
"""Of the many steps that were made before: corrections for the first ones are neither 1 nor huge."""


def forward_cost(rows: int, dimensions: int, columns: int, moment_bytes: int = FLOAT) -> Cost:
    """The basis and two moments read and written; N rows of codes and upstream in, gradients of the codes out."""
    basis = dimensions * padded(columns) * 2 * (FLOAT + 2 * moment_bytes)
    factors = FLOAT * (2 * rows * dimensions + rows * columns + 1)
    return Cost(basis + factors, dimensions * columns * (4 * rows + 14))


def run(inputs: Inputs, backend: Backend | None) -> Outputs:  # [K, S] three times, [N, K]
    """Basis and moments, which are changed in place, and the gradient of the codes."""
    step = inputs["step"].float()  # which it is, but in comparisons with float64
    given = inputs | {"step": step, "lr": RATE, "betas": BETAS, "eps": EPS}
    codes_grad = low_rank_adam_(**given, codes_gradient=True, backend=backend)
    assert codes_grad is not None
    return inputs["basis"], inputs["exp_avg"], inputs["exp_avg_sq"], codes_grad


def case(scene: Scene, dimensions: int, bf16: bool = False) -> Bench:
    """A step of a basis of the mesh's colours, with codes of the scene's subjects."""
    rows, columns, dtype = scene.subjects, 3 * scene.mesh.vertices, torch.bfloat16 if bf16 else torch.float32

    def make(device: str, seed: int) -> Inputs:
        random = Random(device, seed)
        moments = [pad_columns(random.normal(dimensions, columns, scale=0.1)) for _ in range(2)]
        return {
            "basis": pad_columns(random.normal(dimensions, columns, scale=0.01)),
            "exp_avg": moments[0].to(dtype),
            "exp_avg_sq": moments[1].square_().to(dtype),
            "codes": random.normal(rows, dimensions),
            "upstream": random.normal(rows, columns, scale=0.1),
            "step": torch.tensor(STEP, device=device),
        }

    return measured(
        scene,
        "number of the basis",
        dimensions * columns,
        op="low_rank_adam",
        shape=f"{rows} x {dimensions} x {columns:,}{', bf16 moments' * bf16}",
        make=make,
        run=run,
        differentiable=(),
        forward=forward_cost(rows, dimensions, columns, dtype.itemsize),
        dtype="bfloat16" if bf16 else "float32",
        # bfloat16 has 8 bits, the last of them rounded up or down at random.
        tolerance={"forward": 2**-7 if bf16 else 1e-4},
    )


CASES = [
    *(case(scene, DIMENSIONS[scene.suites]) for scene in TRAINING),
    *(case(scene, DIMENSIONS[scene.suites], bf16=True) for scene in TRAINING),
    *(case(scene, int(scene.x)) for training in (PAPER, SMALL) for scene in swept(training)),
]


def compile_cases() -> list[Case]:
    """Launches for few codes, with and without their gradient, by type of the moments."""
    from fmlfast.kernels.low_rank_adam_triton import SPLIT, low_rank_adam_kernel

    return [
        Case(
            kernel=low_rank_adam_kernel,
            variant=f"{rows} rows{', codes too' if codes else ''}, {moments[1:]} moments",
            types=f"*fp32 {moments} {moments} {'*fp32 ' * codes}*fp32 *fp32 *fp32 i32 i32 i32 i32 i32 fp32 fp32 fp32",
            constexprs={"SPLIT": SPLIT, "BLOCK_N": rows, "BLOCK_K": terms, "BLOCK_D": 32}
            | ({} if codes else {"partial_ptr": None}),
            options={"num_warps": 4},
            bytes=size,
            element="element of the basis",
            multiples=("code_stride", "basis_stride"),
            step=InStep("optimiser", sizes.BASIS, terms * SPLIT, (SPLIT / 32,))
            if (rows, codes, moments) == (8, True, "*fp32")
            else None,
        )
        for rows, terms, codes, moments, size in (
            (8, 16, False, "*fp32", 24),
            (8, 16, False, "*bf16", 16),
            (8, 16, True, "*fp32", 24),
            (8, 16, True, "*bf16", 16),
            (16, 8, True, "*fp32", 24),
            (16, 8, True, "*bf16", 16),
        )
    ]
