"""Compile cases of the photometric losses, at vertices and over pixels."""

from benchmarks.compile import Case, InStep
from benchmarks.compile._paper import VERTICES_OF_FRAMES
from fmlfast.kernels.photometric import KINDS
from fmlfast.kernels.photometric_pixels_triton import photometric_pixels_fwd_kernel
from fmlfast.kernels.photometric_triton import (
    photometric_bwd_kernel,
    photometric_fwd_kernel,
    photometric_mean_kernel,
)

OPTIONS = {"num_warps": 4}
_BACKWARD = InStep("photometric, backward", 6 * VERTICES_OF_FRAMES, 1024)
GRADIENTS = {
    "no": (28 + 12, {"VERTICES": False, "COLORS": False, "d_vertices_ptr": None, "d_colors_ptr": None}),
    "colour": (28 + 24, {"VERTICES": False, "COLORS": True, "d_vertices_ptr": None}),
    "both": (28 + 36, {"VERTICES": True, "COLORS": True}),
}


def _constants(kind: str) -> dict[str, float]:
    return dict(zip(("ALPHA", "SCALE"), KINDS[kind], strict=True))


CASES = [
    *(
        Case(
            photometric_fwd_kernel,
            " ".join(["*fp32"] * (9 - list(constants.values()).count(None)) + ["i32"] * 4),
            {"WEIGHTED": True, **constants, **_constants(kind), "BLOCK": 128},
            size,
            "vertex of a frame",
            f"{kind}, {gradients} gradients",
            OPTIONS,
            multiples=("H", "W"),
            step=InStep("photometric", VERTICES_OF_FRAMES, 128) if (kind, gradients) == ("geman", "both") else None,
        )
        for kind in ("squared", "charbonnier", "geman")
        for gradients, (size, constants) in GRADIENTS.items()
    ),
    Case(photometric_mean_kernel, "*fp32 *fp32 *fp32 i32", {"BLOCK": 1024}, 8, "block of vertices", options=OPTIONS),
    Case(
        photometric_bwd_kernel,
        "*fp32 *fp32 *fp32 *fp32 i32 i32 i32",
        {"BLOCK": 1024},
        8,
        "number",
        options=OPTIONS,
        step=_BACKWARD,
    ),
    *(
        Case(
            photometric_pixels_fwd_kernel,
            "*fp32 *fp32 *fp32 *fp32 *fp32 i32 i32 i32",
            {
                "WEIGHTED": True,
                "GRADIENT": True,
                **_constants(kind),
                "BLOCK": 1024 // tile,
                "CHANNELS": tile,
            },
            12 * channels + 4,
            "pixel",
            f"{kind}, {channels} channels",
            OPTIONS,
        )
        for kind, channels, tile in (
            ("charbonnier", 1, 1),
            ("charbonnier", 3, 4),
            ("charbonnier", 64, 64),
            ("geman", 3, 4),
        )
    ),
]
