"""`skin_displacements` and `deform`: geometry from codes."""

import torch

from benchmarks.harness import step_sizes as sizes
from benchmarks.harness.case import Bench, Cost, Inputs
from benchmarks.harness.compile_case import Case, InStep
from benchmarks.harness.scenes import DISTANCE, Random, Scene, template
from benchmarks.harness.sizes import (
    EXPRESSIONS,
    FLOAT,
    INT,
    NODES,
    SUBJECTS,
    TINY,
    TRAINING,
    VERTICES,
    WEIGHTS,
    measured,
    runs,
)
from fmlfast.kernels.deform import deform, skin_displacements

GRAPHS = {"gpu": NODES, "cpu": NODES, "test": 20}
"""Nodes of the graph; few in the tests, as the interpreter runs a program a node."""
SKIN = WEIGHTS * (INT + FLOAT)
"""Bytes of a vertex's row of the skinning."""


def skin_forward_cost(subjects: int, vertices: int, nodes: int) -> Cost:
    """B subjects, V vertices, G nodes."""
    moved = FLOAT * 3 * subjects * (nodes + vertices)
    return Cost(moved + SKIN * vertices, 2 * WEIGHTS * 3 * subjects * vertices)


skin_backward_cost = skin_forward_cost
"""The same the other way: upstream is read and the gradient of the nodes written."""


def forward_cost(subjects: int, frames: int, vertices: int, nodes: int, posed: bool = True) -> Cost:
    """B subjects of M frames: a mean, the nodes, the expressions and coefficients in, all frames out."""
    count = subjects * frames
    shared = (FLOAT * 3 + SKIN) * vertices + FLOAT * 3 * EXPRESSIONS * vertices
    codes = FLOAT * (3 * nodes * subjects + count * (EXPRESSIONS + 12 * posed))
    flops = skin_forward_cost(subjects, vertices, nodes).flops + 3 * count * vertices * (
        2 * EXPRESSIONS + 1 + 6 * posed
    )
    return Cost(shared + codes + FLOAT * 3 * count * vertices, flops)


def backward_cost(
    subjects: int, frames: int, vertices: int, nodes: int, posed: bool = True, template_gradients: bool = False
) -> Cost:
    """Reads what the forward pass reads, as local positions are made again, and upstream.

    With `template_gradients` those of mean and expressions are written too.
    """
    forward = forward_cost(subjects, frames, vertices, nodes, posed)
    codes = FLOAT * (3 * nodes * subjects + subjects * frames * (EXPRESSIONS + 12 * posed))
    extra = FLOAT * 3 * vertices * (1 + EXPRESSIONS) * template_gradients
    return Cost(forward.bytes + codes + extra, (2 + template_gradients) * forward.flops)


def _skinning(scene: Scene, random: Random) -> Inputs:
    if scene.mesh.kind == "face":
        head = template(scene.mesh.detail, random.device)
        return {"skin_indices": head.skin_indices, "skin_weights": head.skin_weights}
    # Nodes of neighbours are neighbours, as on a face.
    nodes = GRAPHS[scene.suites]
    first = torch.arange(scene.mesh.vertices, device=random.device) * nodes // scene.mesh.vertices
    indices = (first[:, None] + torch.arange(WEIGHTS, device=random.device)) % nodes
    weights = random.uniform(scene.mesh.vertices, WEIGHTS, low=0.1)
    return {"skin_indices": indices.int(), "skin_weights": weights / weights.sum(1, keepdim=True)}


def skin_case(scene: Scene) -> Bench:
    """Displacements of the graph's nodes, carried to the mesh."""
    nodes = GRAPHS[scene.suites]

    def make(device: str, seed: int) -> Inputs:
        random = Random(device, seed)
        return {"displacements": random.normal(scene.subjects, nodes, 3), **_skinning(scene, random)}

    return measured(
        scene,
        "vertex",
        scene.subjects * scene.mesh.vertices,
        op="skin_displacements",
        shape=f"{scene.subjects} subjects, {scene.mesh.vertices:,} vertices",
        make=make,
        run=runs(skin_displacements),
        differentiable=("displacements",),
        forward=skin_forward_cost(scene.subjects, scene.mesh.vertices, nodes),
        backward=skin_backward_cost(scene.subjects, scene.mesh.vertices, nodes),
    )


def case(scene: Scene, posed: bool = True, template_gradients: bool = False) -> Bench:
    """Frames of the scene's subjects; in training the template has no gradient."""
    pose = ("rotation", "translation") if posed else ()
    learned = ("mean", "expressions") if template_gradients else ()
    subjects, frames, vertices, nodes = scene.subjects, scene.frames, scene.mesh.vertices, GRAPHS[scene.suites]

    def make(device: str, seed: int) -> Inputs:
        random = Random(device, seed)
        mean, _ = scene.mesh.on(device)
        if scene.mesh.kind == "face":
            expressions = template(scene.mesh.detail, device).expressions
        else:
            expressions = random.normal(EXPRESSIONS, vertices, 3)
        inputs: Inputs = {
            "mean": mean,
            "displacements": random.normal(subjects, nodes, 3),
            **_skinning(scene, random),
            "expressions": expressions,
            "delta": random.uniform(subjects, frames, EXPRESSIONS),
        }
        if posed:
            inputs["rotation"] = random.rotations(subjects * frames).unflatten(0, (subjects, frames))
            inputs["translation"] = random.normal(subjects, frames, 3, scale=10.0)
            inputs["translation"][..., 2] += DISTANCE
        return inputs

    return measured(
        scene,
        "vertex",
        scene.count * vertices,
        op="deform",
        shape=f"{subjects} x {frames}, {vertices:,} vertices{', no pose' * (not posed)}",
        make=make,
        run=runs(deform),
        differentiable=("displacements", "delta", *pose, *learned),
        forward=forward_cost(subjects, frames, vertices, nodes, posed),
        backward=backward_cost(subjects, frames, vertices, nodes, posed, template_gradients),
    )


CASES = [
    *(skin_case(scene) for scene in TRAINING),
    *(case(scene, template_gradients=scene is TINY) for scene in TRAINING),
    case(TINY, posed=False, template_gradients=True),
    *(case(scene) for scene in (*SUBJECTS, *VERTICES)),
]


def compile_cases() -> list[Case]:
    """Launches for 8 subjects of 4 frames and other shares of the two, and for skinning alone."""
    from fmlfast.kernels.deform_grad_triton import deform_bwd_kernel, skin_displacements_bwd_kernel
    from fmlfast.kernels.deform_triton import COEFFICIENTS, deform_fwd_kernel

    forward = {"SLOTS": 8, "TERMS": COEFFICIENTS, "BLOCK_V": 64}
    counts = " i32 i32 i32 i32"
    gathers = InStep("geometry, backward", 8 * sizes.VERTICES_OF_SUBJECTS, 8 * sizes.ENTRIES, (sizes.ENTRY_PASSES,))
    return [
        *(
            Case(
                kernel=deform_fwd_kernel,
                variant=f"{subjects} x {frames} frames, {expressions[1:]}",
                types=f"*fp32 *fp32 *fp32 *i32 *fp32 {expressions} *fp32 *fp32" + counts,
                constexprs=forward | {"BLOCK_B": subjects, "BLOCK_M": frames},
                options={"num_warps": 2},
                bytes=size,
                element="vertex of 32 frames",
                step=InStep("geometry", sizes.VERTICES_OF_FRAMES / 32, 64 / 2, (8, 13)) if subjects == 4 else None,
            )
            for subjects, frames, expressions, size in (
                (4, 4, "*fp32", 51 * 12 + 32 * 12),
                (8, 1, "*fp32", 51 * 12 + 32 * 12),
                (8, 2, "*fp32", 51 * 12 + 32 * 12),
                (1, 16, "*bf16", 51 * 6 + 32 * 12),
            )
        ),
        Case(
            kernel=deform_fwd_kernel,
            variant="skinning alone",
            types="*fp32 *fp32 *i32 *fp32 *fp32 *fp32" + counts,
            constexprs={"mean_ptr": None, "pose_ptr": None} | forward | {"BLOCK_B": 8, "BLOCK_M": 1},
            options={"num_warps": 2},
            bytes=64 + 8 * 12,
            element="vertex of 8 subjects",
        ),
        Case(
            kernel=deform_bwd_kernel,
            types="*fp32 *fp32 *fp32 *fp32 *fp32 *fp32 *fp32 i32 i32 i32",
            constexprs={"BLOCK": 256},
            options={"num_warps": 2},
            bytes=39,
            element="vertex of a frame",
            step=InStep("geometry, backward", sizes.VERTICES_OF_FRAMES, 256 * sizes.FRAMES, (sizes.FRAMES,)),
        ),
        *(
            Case(
                kernel=skin_displacements_bwd_kernel,
                variant=variant,
                types="*fp32 *fp32 *fp32 *i32 *i32 i32 i32",
                constexprs={"SLOTS": 8, "BLOCK_E": entries, "BLOCK_C": columns},
                options={"num_warps": 8},
                bytes=12,
                element="vertex of a subject",
                step=gathers if columns == 32 else None,
            )
            for variant, entries, columns in (("8 subjects", 256, 32), ("1 subject", 1024, 4))
        ),
    ]
