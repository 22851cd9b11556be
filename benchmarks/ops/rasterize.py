"""`rasterize`: what pixels see, and the gradient of where."""

from collections.abc import Callable

from benchmarks.harness.case import Bench, Cost, Inputs, Outputs
from benchmarks.harness.scenes import Mesh, Random, Scene, soup
from benchmarks.ops._sizes import FLOAT, FRAME, IMAGES, INT, PICTURES, SUBJECTS, VERTICES, error_of_most, measured
from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.rasterize import rasterize
from fmlfast.kernels.rasterize_torch import locate

PIXEL = INT + FLOAT * 4
"""Bytes of a fragment: triangle, barycentrics, depth."""
AREAS = (0.2, 1.0, 10.0, 100.0, 10_000.0)
"""Pixels of a triangle."""
SOUPS = {"gpu": (4, 1024, 1_000_000), "cpu": (1, 512, 50_000)}
"""Frames, side of the image and largest number of triangles of a soup."""
NO_MESH = Mesh("sphere", 0)  # a soup makes its own
LAYERS = 8
"""Triangles over each pixel of a soup at most."""


def forward_cost(frames: int, vertices: int, triangles: int, pixels: float, covered: float) -> Cost:
    """`pixels` of all frames; `covered` counts a pixel for every triangle over it.

    A triangle is projected, set up and found the pixels of in some 60 operations, three edges and a depth at a pixel
    take 20, and the barycentrics of a pixel 30.
    """
    memory = FLOAT * 3 * frames * vertices + INT * 3 * triangles + PIXEL * pixels
    return Cost(memory, 60 * frames * triangles + 20 * covered + 30 * pixels)


def backward_cost(frames: int, vertices: int, triangles: int, pixels: float) -> Cost:
    """Upstream and ids are read a pixel, vertices read and their gradients written."""
    return Cost(FLOAT * 6 * frames * vertices + INT * 3 * triangles + PIXEL * pixels, 150 * pixels)


def run(inputs: Inputs, backend: Backend | None) -> Outputs:  # [F, H, W, 3], [F, H, W], [F, H, W] int32
    """Barycentrics, depth (inf where empty) and triangles."""
    found = rasterize(**inputs, backend=backend)
    return found.barycentrics, found.depth, found.triangle_id


def reference(inputs: Inputs) -> Outputs:
    """The rays of the pixels meet the triangles that float32 says they see: a vertex moves by rounding alone."""
    single = {name: inputs[name].detach().float() for name in ("vertices", "Ks")}
    ids = rasterize(**inputs | single, backend="torch").triangle_id
    return *locate(inputs["vertices"], inputs["triangles"], inputs["Ks"], ids), ids


def error(found: Outputs, expected: Outputs) -> float:
    """The error of barycentrics and depth where both see one triangle, or the share of pixels that see another one."""
    if len(found) == 3:
        (barycentrics, depth, ids), (exact_barycentrics, exact_depth, exact_ids) = found, expected
        same = ids == exact_ids
        found = barycentrics[same], depth[same], ids
        expected = exact_barycentrics[same], exact_depth[same], exact_ids
    return error_of_most(found, expected)


def _case(
    scene: Scene,
    shape: str,
    views: Callable[[Random], Inputs],
    per: tuple[str, float],
    mesh: tuple[int, int],
    covered: float,
) -> Bench:
    frames, pixels = scene.count, scene.pixels
    return measured(
        scene,
        *per,
        op="rasterize",
        shape=shape,
        make=lambda device, seed: views(Random(device, seed)),
        run=run,
        differentiable=("vertices",),
        forward=forward_cost(frames, *mesh, pixels, covered),
        backward=backward_cost(frames, *mesh, pixels),
        reference=reference,
        error=error,
        # A position in the image is rounded by up to 1e-4 pixels, and triangles are half a pixel large.
        tolerance={"forward": 1e-3, "backward": 1e-3},
    )


def case(scene: Scene) -> Bench:
    """All frames of a scene; a third of a picture is covered, twice, as the back is drawn too."""
    mesh = scene.mesh.vertices, scene.mesh.triangles
    pixel = scene.sweep == "image"
    per = ("pixel", scene.pixels) if pixel else ("triangle", scene.count * scene.mesh.triangles)
    return _case(scene, str(scene), scene.views, per, mesh, scene.pixels * 2 / 3)


def soup_case(suite: str, area: float) -> Bench:
    """As many triangles of one area as the image holds LAYERS of, up to a number.

    Below a pixel the time should go with the triangles, above with the pixels that they cover: both are an element.
    """
    frames, size, most = SOUPS[suite]
    triangles = min(most, int(LAYERS * size**2 / area))
    scene = Scene(1, frames, NO_MESH, size, suite, "area", area)
    covered = frames * triangles * area
    return _case(
        scene,
        f"{frames} frames, {triangles:,} triangles of {area:g} px, {size} px",
        lambda random: soup(random, frames, triangles, area, size),
        ("triangle, or pixel that it covers", max(frames * triangles, covered)),
        (3 * triangles, triangles),
        covered,
    )


CASES = [
    *(case(scene) for scene in (*PICTURES, FRAME, *SUBJECTS, *IMAGES, *VERTICES)),
    *(soup_case(suite, area) for suite in SOUPS for area in AREAS),
]
