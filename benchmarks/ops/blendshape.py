"""`linear_decode`: reflectance from codes."""

from benchmarks.harness import step_sizes as sizes
from benchmarks.harness.case import Bench, Cost, Inputs
from benchmarks.harness.compile_case import Case, InStep
from benchmarks.harness.scenes import Random, Scene
from benchmarks.harness.sizes import DIMENSIONS, FLOAT, PAPER, SMALL, SUBJECTS, TINY, TRAINING, measured, runs
from fmlfast.kernels.blendshape import linear_decode, pad_columns

SWEPT = {"gpu": (16, 64, 256, 1024), "cpu": (16, 64, 256, 1024)}
"""Dimensions K."""


def padded(columns: int) -> int:
    """S, columns of a basis for D columns of results."""
    return -(-columns // 16) * 16


def forward_cost(rows: int, dimensions: int, columns: int, basis_bytes: int = FLOAT) -> Cost:
    """N rows of codes, K dimensions, D columns."""
    basis = dimensions * padded(columns) * basis_bytes
    small = rows * dimensions + columns + rows * columns  # codes, mean, result
    return Cost(basis + FLOAT * small, 2 * rows * dimensions * columns)


def backward_cost(rows: int, dimensions: int, columns: int, basis_bytes: int = FLOAT, basis_grad: bool = False) -> Cost:
    """Of codes and mean, and of the basis if asked for, written out."""
    basis = dimensions * padded(columns) * basis_bytes
    small = rows * columns + rows * dimensions + columns  # upstream, gradients of codes and mean
    if not basis_grad:
        return Cost(basis + FLOAT * small, 2 * rows * dimensions * columns + rows * columns)
    return Cost(2 * basis + FLOAT * (small + rows * dimensions), 4 * rows * dimensions * columns + rows * columns)


def case(scene: Scene, dimensions: int, basis_grad: bool = False, bf16: bool = False) -> Bench:
    """Codes of the scene's subjects times a basis of the mesh's colours."""
    rows, columns, bytes_ = scene.subjects, 3 * scene.mesh.vertices, 2 if bf16 else FLOAT

    def make(device: str, seed: int) -> Inputs:
        random = Random(device, seed)
        basis = pad_columns(random.normal(dimensions, columns, scale=0.01))
        return {
            "codes": random.normal(rows, dimensions),
            "basis": basis.bfloat16() if bf16 else basis,
            "mean": random.uniform(columns),
        }

    return measured(
        scene,
        "number of the basis",
        dimensions * columns,
        op="linear_decode",
        shape=f"{rows} x {dimensions} x {columns:,}{', gradient of the basis' * basis_grad}{', bf16 basis' * bf16}",
        make=make,
        run=runs(linear_decode),
        differentiable=("codes", "basis", "mean") if basis_grad else ("codes", "mean"),
        forward=forward_cost(rows, dimensions, columns, bytes_),
        backward=backward_cost(rows, dimensions, columns, bytes_, basis_grad),
        dtype="bfloat16" if bf16 else "float32",
    )


def swept(scene: Scene) -> list[Scene]:
    """The scene at each number of dimensions, which is its x."""
    return [Scene(**vars(scene) | {"sweep": "dimensions", "x": k}) for k in SWEPT[scene.suites]]


CASES = [
    *(case(scene, DIMENSIONS[scene.suites], basis_grad=scene is TINY) for scene in TRAINING),
    *(case(scene, DIMENSIONS[scene.suites], basis_grad=True) for scene in (PAPER, SMALL)),
    *(case(scene, DIMENSIONS[scene.suites], bf16=True) for scene in (PAPER, TINY)),
    *(case(scene, DIMENSIONS[scene.suites]) for scene in SUBJECTS),
    *(case(scene, int(scene.x)) for training in (PAPER, SMALL) for scene in swept(training)),
]


def compile_cases() -> list[Case]:
    """Launches for few codes, as of a batch of subjects, and for 16 rows of the 32 frames' expressions."""
    from fmlfast.kernels.blendshape_triton import (
        SPLIT,
        STRIPS,
        TERMS,
        linear_decode_bwd_kernel,
        linear_decode_fwd_kernel,
    )

    per = "element of the basis"
    return [
        *(
            Case(
                kernel=linear_decode_fwd_kernel,
                variant=f"{rows} rows, {basis[1:]}",
                types=f"*fp32 *fp32 {basis} *fp32 i32 i32 i32 i32 i32",
                constexprs={"BLOCK_N": rows, "TERMS": TERMS, "BLOCK_D": 256},
                options={"num_warps": 2},
                bytes=size,
                element=per,
                multiples=("basis_stride",),
                step=InStep("geometry", sizes.BASIS, 500 * 256, (500 / TERMS,)) if (rows, size) == (8, 4) else None,
            )
            for rows, basis, size in ((8, "*fp32", 4), (8, "*bf16", 2), (16, "*fp32", 4))
        ),
        Case(
            kernel=linear_decode_fwd_kernel,
            variant="basis gradient",
            types="*fp32 *fp32 *fp32 i32 i32 i32 i32 i32",
            constexprs={"mean_ptr": None, "BLOCK_N": 16, "TERMS": TERMS, "BLOCK_D": 256},
            options={"num_warps": 2},
            bytes=4,
            element=per,
        ),
        *(
            Case(
                kernel=linear_decode_bwd_kernel,
                variant=f"{rows} rows, {basis[1:]}",
                types=f"*fp32 *fp32 {basis} i32 i32 i32 i32",
                constexprs={"SPLIT": SPLIT, "BLOCK_N": rows, "BLOCK_K": terms, "STRIPS": STRIPS, "BLOCK_D": 32},
                options={"num_warps": 4},
                bytes=size,
                element=per,
                # Of 16 rows for the 32 frames' expressions, the basis twice.
                step=InStep("geometry, backward", sizes.EXPRESSION_BASIS, terms * SPLIT / 2, (SPLIT / 64,))
                if rows == 16
                else None,
            )
            for rows, terms, basis, size in ((8, 32, "*fp32", 4), (8, 32, "*bf16", 2), (16, 16, "*fp32", 4))
        ),
    ]
