"""`render`: from meshes to antialiased pictures."""

import torch

from benchmarks.harness.case import Bench, Cost, Inputs, Outputs
from benchmarks.harness.scenes import Random, Scene
from benchmarks.harness.sizes import FLOAT, FRAME, IMAGES, INT, PICTURES, SUBJECTS, error_of_most, measured
from benchmarks.ops import antialias, interpolate, rasterize
from fmlfast.camera import to_camera
from fmlfast.kernels.common.backend import Backend
from fmlfast.renderer import render

OUTPUT = FLOAT * 5
"""Bytes of a pixel: colour, mask, depth."""


def forward_cost(frames: int, vertices: int, triangles: int, pixels: int) -> Cost:
    """Meshes, colours and cameras in, pictures out; what lies between the operations need not leave the chip."""
    memory = FLOAT * frames * (6 * vertices + 25) + INT * 3 * triangles + OUTPUT * pixels
    drawn = rasterize.forward_cost(frames, vertices, triangles, pixels, pixels * 2 / 3)
    colored = interpolate.forward_cost(frames, vertices, triangles, pixels)
    return Cost(memory, 18 * frames * vertices + drawn.flops + colored.flops + antialias.forward_cost(pixels).flops)


def backward_cost(frames: int, vertices: int, triangles: int, pixels: int) -> Cost:
    """Reads what the forward pass reads and upstream, writes gradients of vertices and colours."""
    memory = FLOAT * frames * (12 * vertices + 25) + INT * 3 * triangles + OUTPUT * pixels
    parts = (
        rasterize.backward_cost(frames, vertices, triangles, pixels),
        interpolate.backward_cost(frames, vertices, triangles, pixels),
        antialias.backward_cost(frames, vertices, pixels),
    )
    return Cost(memory, 18 * frames * vertices + sum(part.flops for part in parts))


def run(inputs: Inputs, backend: Backend | None) -> Outputs:  # [F, H, W, 3], [F, H, W], [F, H, W]
    """Image, mask and depth, inf where empty."""
    found = render(**inputs, backend=backend)
    return found.image, found.mask, found.depth


def reference(inputs: Inputs) -> Outputs:
    """The operations one by one: what pixels see is decided in float32."""
    points = to_camera(inputs["vertices"], inputs["viewmats"])
    single = to_camera(inputs["vertices"].detach().float(), inputs["viewmats"].float())
    views = {name: inputs[name] for name in ("triangles", "Ks", "height", "width")}
    ids = rasterize.run(views | {"vertices": single, "Ks": views["Ks"].float()}, "torch")[2]
    barycentrics, depth = rasterize.locate(points, views["triangles"], views["Ks"], ids)
    fragments = {"triangle_id": ids, "barycentrics": barycentrics, "depth": depth}
    (colors,) = interpolate.run(views | fragments | {"attributes": inputs["colors"]}, "torch")
    layers = torch.cat([colors, (ids >= 0)[..., None].to(colors)], -1)
    (layers,) = antialias.run(views | fragments | {"image": layers, "vertices": points}, "torch")
    return layers[..., :3], layers[..., 3], depth


def case(scene: Scene) -> Bench:
    """Meshes of their own in all frames, drawn where they are."""
    size = scene.count, scene.mesh.vertices, scene.mesh.triangles, scene.pixels

    def make(device: str, seed: int) -> Inputs:
        random = Random(device, seed)
        views = scene.views(random)
        colors = random.uniform(scene.count, scene.mesh.vertices, 3)
        return views | {"colors": colors, "viewmats": torch.eye(4, device=device).repeat(scene.count, 1, 1)}

    return measured(
        scene,
        "pixel",
        scene.pixels,
        op="render",
        shape=str(scene),
        make=make,
        run=run,
        differentiable=("vertices", "colors"),
        forward=forward_cost(*size),
        backward=backward_cost(*size),
        reference=reference,
        error=error_of_most,
        tolerance={"forward": 1e-3, "backward": 1e-3},  # as rasterize
    )


CASES = [case(scene) for scene in (*PICTURES, FRAME, *SUBJECTS, *IMAGES)]
