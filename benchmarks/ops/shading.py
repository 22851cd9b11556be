"""`shade_sh` and `shade_vertices`: colours of vertices under spherical harmonics light."""

from typing import Any

from benchmarks.harness import step_sizes as sizes
from benchmarks.harness.case import Bench, Cost, Inputs, Outputs
from benchmarks.harness.compile_case import Case, InStep
from benchmarks.harness.scenes import Random, Scene
from benchmarks.harness.sizes import FLOAT, FRAME, SUBJECTS, TINY, TRAINING, VERTICES, measured, runs
from benchmarks.ops import normals
from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.normals import RESOLUTION, vertex_normals
from fmlfast.kernels.shading import shade_sh, shade_vertices

TERMS = 9
"""Of spherical harmonics."""


def forward_cost(subjects: int, frames: int, vertices: int) -> Cost:
    """`shade_sh` for F frames: reflectance a subject, normals and light in, colours out."""
    memory = FLOAT * 3 * (subjects * vertices + 2 * frames * vertices + TERMS * frames)
    return Cost(memory, frames * vertices * (10 + 3 * 2 * TERMS + 3))  # the terms, the light, the reflectance


def backward_cost(subjects: int, frames: int, vertices: int) -> Cost:
    """Reads all inputs and upstream, writes all gradients."""
    memory = FLOAT * 3 * (2 * subjects * vertices + 3 * frames * vertices + 2 * TERMS * frames)
    return Cost(memory, 3 * forward_cost(subjects, frames, vertices).flops)  # light again, its gradient, the normals'


def fused_forward_cost(subjects: int, frames: int, vertices: int, triangles: int) -> Cost:
    """`shade_vertices`: vertices instead of normals in, and normals out too."""
    light, shape = forward_cost(subjects, frames, vertices), normals.forward_cost(frames, vertices, triangles)
    return Cost(light.bytes + shape.bytes - FLOAT * 3 * frames * vertices, light.flops + shape.flops)


def fused_backward_cost(
    subjects: int, frames: int, vertices: int, triangles: int, normals_gradient: bool = False
) -> Cost:
    """Reads vertices, reflectance, light and upstream of the colours, and of the normals where they have one."""
    light, shape = backward_cost(subjects, frames, vertices), normals.backward_cost(frames, vertices, triangles)
    between = FLOAT * 3 * frames * vertices  # normals and their gradients need not leave the chip
    memory = light.bytes + shape.bytes - (2 if normals_gradient else 3) * between
    return Cost(memory, light.flops + shape.flops)


def _light(scene: Scene, random: Random) -> Inputs:
    return {
        "reflectance": random.uniform(scene.subjects, scene.mesh.vertices, 3),
        "sh": random.normal(scene.count, TERMS, 3, scale=0.3),
    }


def sh_case(scene: Scene) -> Bench:
    """Normals are given."""
    size = scene.subjects, scene.count, scene.mesh.vertices

    def make(device: str, seed: int) -> Inputs:
        random = Random(device, seed)
        views = scene.views(random)
        return {"normals": vertex_normals(views["vertices"], views["triangles"]), **_light(scene, random)}

    return measured(
        scene,
        "vertex",
        scene.count * scene.mesh.vertices,
        op="shade_sh",
        shape=f"{scene.subjects} x {scene.frames}, {scene.mesh.vertices:,} vertices",
        make=make,
        run=runs(shade_sh),
        differentiable=("reflectance", "normals", "sh"),
        forward=forward_cost(*size),
        backward=backward_cost(*size),
    )


def case(scene: Scene, normals_gradient: bool = False) -> Bench:
    """In training nothing is made of the normals that has a gradient."""
    size = scene.subjects, scene.count, scene.mesh.vertices, scene.mesh.triangles

    def make(device: str, seed: int) -> Inputs:
        random = Random(device, seed)
        views = scene.views(random)
        return {"vertices": views["vertices"], "triangles": views["triangles"], **_light(scene, random)}

    def run(inputs: Inputs, backend: Backend | None) -> Outputs:
        colors, found = shade_vertices(**inputs, backend=backend)
        return colors, found if normals_gradient else found.detach()

    return measured(
        scene,
        "vertex",
        scene.count * scene.mesh.vertices,
        op="shade_vertices",
        shape=f"{scene.subjects} x {scene.frames}, {scene.mesh.vertices:,} vertices",
        make=make,
        run=run,
        differentiable=("vertices", "reflectance", "sh"),
        forward=fused_forward_cost(*size),
        backward=fused_backward_cost(*size, normals_gradient),
    )


CASES = [
    *(sh_case(scene) for scene in TRAINING),
    *(case(scene, normals_gradient=scene is TINY) for scene in (*TRAINING, FRAME)),
    *(case(scene) for scene in (*SUBJECTS, *VERTICES)),
]


def compile_cases() -> list[Case]:
    """Launches of `shade_sh`, with a reflectance for every frame, and of `shade_vertices`, with one for four frames."""
    from fmlfast.kernels.normals_triton import LANES
    from fmlfast.kernels.shading_triton import shade_bwd_kernel, shade_sh_fwd_kernel, shade_vertices_fwd_kernel

    block, per = {"BLOCK": LANES}, "vertex of a frame"
    optional = ("upstream_ptr", "inverse_ptr", "d_reflectance_ptr", "d_normals_ptr", "sums_ptr")

    def backward(variant: str, bytes: float, *left_out: str, step: InStep | None = None) -> Case:
        constexprs: dict[str, Any] = block | dict.fromkeys(left_out)
        types = " ".join(["*fp32"] * (4 + len(optional) - len(left_out)) + ["i32", "i32"])
        return Case(shade_bwd_kernel, types, constexprs, bytes, per, variant, {"num_warps": 1}, step=step)

    frames = sizes.FRAMES
    in_step = InStep("shading, backward", sizes.VERTICES_OF_FRAMES, LANES * frames, (frames,))
    return [
        Case(shade_sh_fwd_kernel, "*fp32 *fp32 *fp32 *fp32 i32 i32", block, 24 + 12, per),
        Case(
            shade_vertices_fwd_kernel,
            "*fp32 *i32 *i32 *fp32 *fp32 *fp32 *fp32 *fp32 i32 i32",
            {"RESOLUTION": RESOLUTION} | block,
            16 + 3 + 28,
            per,
            step=InStep("shading", sizes.VERTICES_OF_FRAMES, LANES, (sizes.RING,)),
        ),
        backward("shade_sh", 36 + 24, "upstream_ptr", "inverse_ptr"),
        backward("shade_vertices", 44 + 6, "upstream_ptr", step=in_step),
        backward("normals used elsewhere", 56 + 6),
        backward("light and reflectance only", 36 + 12, "upstream_ptr", "inverse_ptr", "d_normals_ptr"),
    ]
