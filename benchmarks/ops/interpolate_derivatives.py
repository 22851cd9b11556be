"""`interpolate_derivatives`: texture coordinates of vertices, by x and y over pixels."""

from benchmarks.harness.case import Bench, Cost, Inputs, Outputs
from benchmarks.harness.compile_case import Case
from benchmarks.harness.scenes import Random, Scene
from benchmarks.harness.sizes import FLOAT, FRAME, IMAGES, INT, PICTURES, measured
from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.interpolate_derivatives import interpolate_derivatives
from fmlfast.kernels.rasterize import Fragments, rasterize

CHANNELS = 2


def forward_cost(frames: int, vertices: int, triangles: int, pixels: int, channels: int = CHANNELS) -> Cost:
    """Attributes, triangles, and ids and derivatives of all pixels in, two derivatives a channel out."""
    memory = FLOAT * frames * vertices * channels + INT * 3 * triangles + (INT + FLOAT * (4 + 2 * channels)) * pixels
    return Cost(memory, 8 * channels * pixels)  # two differences, and two products and a sum by x and y


def backward_cost(frames: int, vertices: int, triangles: int, pixels: int, channels: int = CHANNELS) -> Cost:
    """Reads the inputs and upstream, writes gradients of attributes and derivatives."""
    forward = forward_cost(frames, vertices, triangles, pixels, channels)
    memory = forward.bytes + FLOAT * frames * vertices * channels + FLOAT * 4 * pixels
    return Cost(memory, 20 * channels * pixels)  # 10 for the derivatives, 10 for the corners, whose third is a sum


def run(inputs: Inputs, backend: Backend | None) -> Outputs:  # [F, H, W, 2 * C]
    """Fragments are put together here, so that derivatives are an input with a gradient."""
    fragments = Fragments(**{name: inputs[name] for name in ("triangle_id", "barycentrics", "depth", "derivatives")})
    return (interpolate_derivatives(inputs["attributes"], inputs["triangles"], fragments, backend=backend),)


def case(scene: Scene) -> Bench:
    """Random texture coordinates on the scene's own picture, whose barycentrics change at random."""
    size = scene.count, scene.mesh.vertices, scene.mesh.triangles, scene.pixels

    def make(device: str, seed: int) -> Inputs:
        random = Random(device, seed)
        views = scene.views(random)
        seen = rasterize(**views)
        derivatives = random.normal(*seen.triangle_id.shape, 4) * (seen.triangle_id >= 0)[..., None]
        return {
            "attributes": random.uniform(scene.count, scene.mesh.vertices, CHANNELS),
            "triangles": views["triangles"],
            **vars(seen),
            "derivatives": derivatives,
        }

    return measured(
        scene,
        "pixel",
        scene.pixels,
        op="interpolate_derivatives",
        shape=str(scene),
        make=make,
        run=run,
        differentiable=("attributes", "derivatives"),
        forward=forward_cost(*size),
        backward=backward_cost(*size),
    )


CASES = [case(scene) for scene in (*PICTURES, FRAME, *IMAGES)]


def compile_cases() -> list[Case]:
    """Launches for one channel, for texture coordinates and for features."""
    from fmlfast.kernels.interpolate_derivatives_triton import (
        interpolate_derivatives_bwd_kernel,
        interpolate_derivatives_fwd_kernel,
        interpolate_derivatives_peak_kernel,
    )

    blocks = {1: (1, 512), 2: (2, 256), 64: (16, 32)}  # channels: channel block, pixels

    def launch(
        kernel: object, types: str, size: int, channels: int, variant: str = "", fuse: bool = True, **needs: bool
    ) -> Case:
        channel_block, block = blocks[channels]
        constexprs = {"CHANNELS": channels, "BLOCK": block, "CHANNEL_BLOCK": channel_block} | needs
        options = {"num_warps": 4, "enable_fp_fusion": fuse}
        return Case(kernel, types, constexprs, size, "pixel", f"C={channels}{variant}", options)

    def forward(channels: int) -> Case:
        types = "*fp32 *i32 *i32 *fp32 *fp32 i32 i32 i32"
        return launch(interpolate_derivatives_fwd_kernel, types, 20 + 8 * channels, channels)

    def peak(channels: int) -> Case:
        types = "*i32 *fp32 *fp32 *i32 i32 i32"
        return launch(interpolate_derivatives_peak_kernel, types, 20 + 8 * channels, channels, fuse=False)

    def backward(channels: int, variant: str, attributes: bool, derivatives: bool) -> Case:
        types = "*fp32 *i32 *i32 *fp32 *fp32 *fp32 *i64 *fp32 i32 i32 i32"
        size = 4 + 8 * channels + 16 * attributes + 16 * derivatives
        needs = {"TO_ATTRIBUTES": attributes, "TO_WEIGHTS": derivatives}
        return launch(interpolate_derivatives_bwd_kernel, types, size, channels, variant, fuse=False, **needs)

    return [
        *(forward(c) for c in blocks),
        *(peak(c) for c in blocks),
        *(backward(c, "", True, True) for c in blocks),
        backward(2, " to attributes", True, False),
        backward(2, " to derivatives", False, True),
    ]
