"""`antialias`: pixels at silhouettes."""

from benchmarks.harness.case import Bench, Cost, Inputs, Outputs
from benchmarks.harness.compile_case import Case
from benchmarks.harness.scenes import Random, Scene
from benchmarks.harness.sizes import FLOAT, FRAME, IMAGES, INT, PICTURES, error_of_most, measured
from fmlfast.kernels.antialias import antialias
from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.common.outlines import MAX_STEPS
from fmlfast.kernels.rasterize import Fragments, rasterize

CHANNELS = 4
"""Colours and a mask, as in `render`."""
SILHOUETTE = 0.02
"""Share of the pixels, about, that lie at one."""


def forward_cost(pixels: int, channels: int = CHANNELS) -> Cost:
    """The image in and out and all ids in; depth, mesh and cameras matter at silhouettes only, so not at all."""
    walks = SILHOUETTE * pixels * 16 * 30  # 16 triangles each
    return Cost((FLOAT * 2 * channels + INT) * pixels, 2 * pixels + walks)


def backward_cost(frames: int, vertices: int, pixels: int, channels: int = CHANNELS) -> Cost:
    """Upstream in and the image's gradient out, and the vertices', which is zero nearly everywhere."""
    memory = FLOAT * 2 * channels * pixels + FLOAT * 3 * frames * vertices
    return Cost(memory, SILHOUETTE * pixels * (60 + 6 * channels))


def run(inputs: Inputs, backend: Backend | None) -> Outputs:  # [F, H, W, C]
    """Fragments are put together here, as they are for `interpolate`."""
    fragments = Fragments(inputs["triangle_id"], inputs["barycentrics"], inputs["depth"])
    image, vertices, triangles, Ks = (inputs[name] for name in ("image", "vertices", "triangles", "Ks"))
    return (antialias(image, vertices, triangles, Ks, fragments, backend),)


def case(scene: Scene) -> Bench:
    """A picture of noise, the sharpest there is."""

    def make(device: str, seed: int) -> Inputs:
        random = Random(device, seed)
        views = scene.views(random)
        return {
            "image": random.uniform(scene.count, scene.image, scene.image, CHANNELS),
            **{name: views[name] for name in ("vertices", "triangles", "Ks")},
            **vars(rasterize(**views)),
        }

    return measured(
        scene,
        "pixel",
        scene.pixels,
        op="antialias",
        shape=str(scene),
        make=make,
        run=run,
        differentiable=("image", "vertices"),
        forward=forward_cost(scene.pixels),
        backward=backward_cost(scene.count, scene.mesh.vertices, scene.pixels),
        error=error_of_most,
    )


CASES = [case(scene) for scene in (*PICTURES, FRAME, *IMAGES)]


def compile_cases() -> list[Case]:
    """Launches at full size, of pictures of 3 colours and a mask."""
    from fmlfast.kernels.antialias_find_triton import OPTIONS, PIXELS, antialias_find_kernel
    from fmlfast.kernels.antialias_grad_triton import antialias_bwd_kernel
    from fmlfast.kernels.antialias_triton import antialias_blend_kernel

    mesh = "*fp32 *i32 *fp32 *i32"  # vertices, triangles, Ks, codes
    counts = "i32 i32 i32 i32"
    return [
        Case(
            antialias_find_kernel,
            "*i32 *fp32 *fp32 *i32 *i32 *fp32 *i32 i32 i32 i32 i32",
            {"MAX_STEPS": MAX_STEPS, "BLOCK": PIXELS},
            16,
            "pixel",
            options=OPTIONS,
        ),
        *(
            Case(
                antialias_blend_kernel,
                f"*fp32 {mesh} *fp32 {counts}",
                {"TRANSPOSED": transposed, "CHANNELS": channels, "BLOCK": PIXELS},
                8 * channels + 8,
                "pixel",
                f"{'backward' if transposed else 'forward'}, {channels} channels",
                OPTIONS,
            )
            for transposed in (False, True)
            for channels in (1, 4)
        ),
        *(
            Case(
                antialias_bwd_kernel,
                f"*fp32 *fp32 {mesh} *fp32 *fp32 *i64 {counts}",
                {"MAX_ONLY": max_only, "BLOCK": PIXELS},
                8,
                "pixel",
                "largest" if max_only else "sums",
                OPTIONS,
            )
            for max_only in (True, False)
        ),
    ]
