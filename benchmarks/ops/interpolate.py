"""`interpolate`: colours of vertices over pixels."""

from benchmarks.harness.case import Bench, Cost, Inputs, Outputs
from benchmarks.harness.compile_case import Case
from benchmarks.harness.scenes import Random, Scene
from benchmarks.harness.sizes import FLOAT, FRAME, IMAGES, INT, PICTURES, measured
from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.interpolate import interpolate
from fmlfast.kernels.rasterize import Fragments, rasterize

CHANNELS = 3


def forward_cost(frames: int, vertices: int, triangles: int, pixels: int, channels: int = CHANNELS) -> Cost:
    """Attributes, triangles, and ids and barycentrics of all pixels in, an image out."""
    memory = FLOAT * frames * vertices * channels + INT * 3 * triangles + (INT + FLOAT * (3 + channels)) * pixels
    return Cost(memory, 5 * channels * pixels)


def backward_cost(frames: int, vertices: int, triangles: int, pixels: int, channels: int = CHANNELS) -> Cost:
    """Reads the inputs and upstream, writes gradients of attributes and barycentrics."""
    forward = forward_cost(frames, vertices, triangles, pixels, channels)
    memory = forward.bytes + FLOAT * frames * vertices * channels + FLOAT * 3 * pixels
    return Cost(memory, 11 * channels * pixels)  # two products and sums for each gradient at three corners


def run(inputs: Inputs, backend: Backend | None) -> Outputs:  # [F, H, W, C]
    """Fragments are put together here, so that barycentrics are an input with a gradient."""
    fragments = Fragments(inputs["triangle_id"], inputs["barycentrics"], inputs["depth"])
    return (interpolate(inputs["attributes"], inputs["triangles"], fragments, backend),)


def case(scene: Scene) -> Bench:
    """Random colours on the scene's own picture."""
    size = scene.count, scene.mesh.vertices, scene.mesh.triangles, scene.pixels

    def make(device: str, seed: int) -> Inputs:
        random = Random(device, seed)
        views = scene.views(random)
        return {
            "attributes": random.uniform(scene.count, scene.mesh.vertices, CHANNELS),
            "triangles": views["triangles"],
            **vars(rasterize(**views)),
        }

    return measured(
        scene,
        "pixel",
        scene.pixels,
        op="interpolate",
        shape=str(scene),
        make=make,
        run=run,
        differentiable=("attributes", "barycentrics"),
        forward=forward_cost(*size),
        backward=backward_cost(*size),
    )


CASES = [case(scene) for scene in (*PICTURES, FRAME, *IMAGES)]


def compile_cases() -> list[Case]:
    """Launches for one channel, for colours and for features."""
    from fmlfast.kernels.interpolate_triton import (
        interpolate_bwd_kernel,
        interpolate_fwd_kernel,
        interpolate_peak_kernel,
    )

    blocks = {1: (1, 512), 3: (4, 128), 64: (16, 32)}  # channels: channel block, pixels

    def launch(
        kernel: object, types: str, size: int, channels: int, variant: str = "", fuse: bool = True, **needs: bool
    ) -> Case:
        channel_block, block = blocks[channels]
        constexprs = {"CHANNELS": channels, "BLOCK": block, "CHANNEL_BLOCK": channel_block} | needs
        options = {"num_warps": 4, "enable_fp_fusion": fuse}
        return Case(kernel, types, constexprs, size, "pixel", f"C={channels}{variant}", options)

    def backward(channels: int, variant: str, attributes: bool, barycentrics: bool) -> Case:
        types = "*fp32 *i32 *i32 *fp32 *fp32 *fp32 *i64 *fp32 i32 i32 i32"
        size = 4 + 4 * channels + 12 * attributes + 12 * barycentrics
        needs = {"TO_ATTRIBUTES": attributes, "TO_WEIGHTS": barycentrics}
        return launch(interpolate_bwd_kernel, types, size, channels, variant, fuse=False, **needs)

    return [
        *(launch(interpolate_fwd_kernel, "*fp32 *i32 *i32 *fp32 *fp32 i32 i32 i32", 16 + 4 * c, c) for c in blocks),
        *(launch(interpolate_peak_kernel, "*i32 *fp32 *fp32 *i32 i32 i32", 16 + 4 * c, c, fuse=False) for c in blocks),
        *(backward(c, "", True, True) for c in blocks),
        backward(3, " to attributes", True, False),
        backward(3, " to barycentrics", False, True),
    ]
