"""`antialias`: pixels at silhouettes."""

from benchmarks.harness.case import Bench, Cost, Inputs, Outputs
from benchmarks.harness.scenes import Random, Scene
from benchmarks.ops._sizes import FLOAT, FRAME, IMAGES, INT, PICTURES, error_of_most, measured
from fmlfast.kernels.antialias import antialias
from fmlfast.kernels.common.backend import Backend
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
