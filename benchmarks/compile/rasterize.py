"""How `rasterize` launches its kernels at full size. A face has two triangles for every vertex."""

import math

from benchmarks.compile import Case, InStep
from benchmarks.compile import _paper as paper
from fmlfast.kernels.rasterize_grad_triton import rasterize_bwd_kernel
from fmlfast.kernels.rasterize_triton import (
    rasterize_micro_kernel,
    rasterize_project_kernel,
    rasterize_resolve_kernel,
    rasterize_tile_kernel,
)

_OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


def _draw(index: str, cull: bool) -> list[Case]:
    mesh, variant = f"*fp32 *{index}", f"{index}, {'one side' if cull else 'both sides'}"
    keys = "*i64 *i32 *i64 *i64"
    in_step, share = index == "i32" and not cull, paper.LARGE / paper.TILE_PROGRAMS
    return [
        Case(
            rasterize_micro_kernel,
            f"{keys} {mesh} i32 i32 i32 i32 i32 i32",
            {"CULL": cull, "TILE": 4, "BLOCK": 128},
            bytes=3 * (8 if index == "i64" else 4) / 32 + 8,
            element="triangle of a frame, of 32 frames",
            variant=variant,
            options=_OPTIONS | {"num_warps": 2},
            unaligned=("counter_ptr",),
            multiples=("begin", "triangles", "height", "width"),
            step=InStep("visibility", paper.TRIANGLES_OF_FRAMES, 128) if in_step else None,
        ),
        Case(
            rasterize_tile_kernel,
            f"{keys} {mesh} i32 i32 i32 fp32",
            {"CULL": cull, "TILE": 4, "ITEMS": 16},
            bytes=16 + 3 * (8 if index == "i64" else 4) + 48,
            element="work item",
            variant=variant,
            options=_OPTIONS,
            unaligned=("counter_ptr",),
            multiples=("height", "width"),
            # A search in the queue, then the program's share of the items, 16 at a time.
            step=InStep("visibility", paper.LARGE, share, (math.log2(paper.LARGE), share / 16)) if in_step else None,
        ),
    ]


def _pixels(index: str) -> list[Case]:
    return [
        Case(
            rasterize_resolve_kernel,
            f"*i64 *fp32 *{index} *i32 *fp32 *fp32 i32 i32 i32 i32",
            {"BLOCK": 128},
            bytes=28,
            element="pixel",
            variant=index,
            options=_OPTIONS,
            multiples=("size", "width"),
            step=InStep("visibility", paper.PIXELS_OF_FRAMES, 128) if index == "i32" else None,
        ),
        *(
            Case(
                rasterize_bwd_kernel,
                f"*fp32 *{index} *fp32 *i32 *fp32 *fp32 *fp32 *fp32 *i64 i32 i32 i32 i32",
                {"MAX_ONLY": max_only, "BLOCK": 128},
                bytes=20,
                element="pixel",
                variant=f"{index}, {'largest' if max_only else 'sum'}",
                options={"num_warps": 4},
            )
            for max_only in (True, False)
        ),
    ]


_PROJECT = Case(
    rasterize_project_kernel,
    "*fp32 *fp32 *fp32 i32 i32 fp32",
    {"BLOCK": 128},
    bytes=28,
    element="vertex of a frame",
    options=_OPTIONS,
    step=InStep("visibility", paper.VERTICES_OF_FRAMES, 128),
)

CASES = [_PROJECT, *_draw("i32", False), *_draw("i32", True), *_draw("i64", False), *_pixels("i32"), *_pixels("i64")]
