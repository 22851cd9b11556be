"""`rasterize`: what pixels see, and the gradient of where."""

import math
from collections.abc import Callable

from benchmarks.harness import step_sizes as sizes
from benchmarks.harness.case import Bench, Cost, Inputs, Outputs
from benchmarks.harness.compile_case import Case, InStep
from benchmarks.harness.scenes import Mesh, Random, Scene, soup
from benchmarks.harness.sizes import FLOAT, FRAME, IMAGES, INT, PICTURES, SUBJECTS, VERTICES, error_of_most, measured
from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.rasterize import rasterize
from fmlfast.kernels.rasterize_locate_torch import locate

PIXEL = INT + FLOAT * 4
"""Bytes of a fragment: triangle, barycentrics, depth."""
AREAS = (0.2, 1.0, 10.0, 100.0, 10_000.0)
"""Pixels of a triangle."""
SOUPS = {"gpu": (4, 1024, 1_000_000), "cpu": (1, 512, 50_000)}
"""Frames, side of the image and largest number of triangles of a soup."""
NO_MESH = Mesh("sphere", 0)  # a soup makes its own
LAYERS = 8
"""Triangles over each pixel of a soup at most."""
OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}
"""Of the kernels."""


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


def compile_cases() -> list[Case]:
    """Launches at full size. A face has two triangles for every vertex."""
    from fmlfast.kernels.rasterize_project_triton import rasterize_project_kernel

    project = Case(
        rasterize_project_kernel,
        "*fp32 *fp32 *fp32 i32 i32 fp32",
        {"BLOCK": 128},
        bytes=28,
        element="vertex of a frame",
        options=OPTIONS,
        step=InStep("visibility", sizes.VERTICES_OF_FRAMES, 128),
    )
    ways = (("i32", False), ("i32", True), ("i64", False))
    return [project, *(a for way in ways for a in draw_cases(*way)), *pixel_cases("i32"), *pixel_cases("i64")]


def draw_cases(index: str, cull: bool, clip: bool = False) -> list[Case]:
    """Launches that draw triangles; in clip space with ranges and a layer that they are behind."""
    from fmlfast.kernels.rasterize_triton import rasterize_micro_kernel, rasterize_tile_kernel

    mesh, variant = (
        f"*fp32 *{index}",
        f"{index}, {'one side' if cull else 'both sides'}{', clip space' if clip else ''}",
    )
    keys, layer = "*i64 *i32 *i64 *i64", " *fp32 *i32" if clip else ""
    none = {} if clip else {"behind_depth_ptr": None, "behind_id_ptr": None}
    rules = {"FACING": (1 if clip else -1) * cull, "CLIP": clip, "TILE": 4}
    in_step, share = index == "i32" and not cull and not clip, sizes.LARGE / sizes.TILE_PROGRAMS
    return [
        Case(
            rasterize_micro_kernel,
            f"{keys} {mesh}{' *i32' if clip else ''}{layer} i32 i32 i32 i32 i32 i32",
            rules | {"BLOCK": 128} | none | ({} if clip else {"ranges_ptr": None}),
            bytes=3 * (8 if index == "i64" else 4) / 32 + 8,
            element="triangle of a frame, of 32 frames",
            variant=variant,
            options=OPTIONS | {"num_warps": 2},
            unaligned=("counter_ptr",),
            multiples=("begin", "triangles", "height", "width"),
            step=InStep("visibility", sizes.TRIANGLES_OF_FRAMES, 128) if in_step else None,
        ),
        Case(
            rasterize_tile_kernel,
            f"{keys} {mesh}{layer} i32 i32 i32 fp32",
            rules | {"ITEMS": 16} | none,
            bytes=16 + 3 * (8 if index == "i64" else 4) + 48,
            element="work item",
            variant=variant,
            options=OPTIONS,
            unaligned=("counter_ptr",),
            multiples=("height", "width"),
            # A search in the queue, then the program's share of the items, 16 at a time.
            step=InStep("visibility", sizes.LARGE, share, (math.log2(sizes.LARGE), share / 16)) if in_step else None,
        ),
    ]


def pixel_cases(index: str, derivatives: bool = False, clip: bool = False) -> list[Case]:
    """Launches that find what pixels see, and its gradient."""
    from fmlfast.kernels.rasterize_grad_triton import rasterize_bwd_kernel
    from fmlfast.kernels.rasterize_triton import rasterize_resolve_kernel

    variant = f"{index}{', derivatives' if derivatives else ''}"
    more, in_step = " *fp32" if derivatives else "", index == "i32" and not derivatives
    none = {} if derivatives else {"derivatives_ptr": None}
    resolve = Case(
        rasterize_resolve_kernel,
        f"*i64 *fp32 *{index} *i32 *fp32 *fp32{more} i32 i32 i32 i32",
        {"BLOCK": 128} | none,
        bytes=44 if derivatives else 28,
        element="pixel",
        variant=variant,
        options=OPTIONS,
        multiples=("size", "width"),
        step=InStep("visibility", sizes.PIXELS_OF_FRAMES, 128) if in_step else None,
    )
    none = {} if derivatives else {"derivatives_grad_ptr": None}
    none |= {"Ks_ptr": None} if clip else {}
    backward = [
        Case(
            rasterize_bwd_kernel,
            f"*fp32 *{index}{'' if clip else ' *fp32'} *i32 *fp32 *fp32{more} *fp32 *fp32 *i64 i32 i32 i32 i32 i32",
            {"CLIP": clip, "MAX_ONLY": max_only, "BLOCK": 128} | none,
            bytes=36 if derivatives else 20,
            element="pixel",
            variant=f"{variant}{', clip space' if clip else ''}, {'largest' if max_only else 'sum'}",
            options=OPTIONS,
        )
        for max_only in (True, False)
    ]
    return backward if clip and not derivatives else [resolve, *backward]
