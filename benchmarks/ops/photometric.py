"""`photometric` and `photometric_pixels`: a model's colours against images."""

from benchmarks.harness import step_sizes as sizes
from benchmarks.harness.case import Bench, Cost, Inputs
from benchmarks.harness.compile_case import Case, InStep
from benchmarks.harness.scenes import Random, Scene
from benchmarks.harness.sizes import FLOAT, SUBJECTS, TRAINING, error_of_most, measured
from fmlfast.kernels.photometric import KINDS, photometric
from fmlfast.kernels.photometric_pixels import photometric_pixels

KIND = "geman"
"""As in training."""
SEEN = 0.4
"""Share of the vertices with a weight."""


def forward_cost(frames: int, vertices: int, pixels: int) -> Cost:
    """Images, vertices, colours and weights in, a loss a frame and the colours of the images at the vertices out."""
    memory = FLOAT * (3 * pixels + 10 * frames * vertices + 10 * frames)
    return Cost(memory, frames * vertices * SEEN * (10 + 3 * 8 + 12))  # a projection, three samples, a cost


def backward_cost(frames: int, vertices: int, pixels: int) -> Cost:
    """Reads the inputs again, writes gradients of vertices and colours; local gradients kept instead are as large."""
    memory = FLOAT * (3 * pixels + 13 * frames * vertices + 10 * frames)
    return Cost(memory, frames * vertices * SEEN * (10 + 3 * 14 + 30))


def pixels_forward_cost(frames: int, pixels: int, channels: int = 3) -> Cost:
    """Two images and weights in, a loss a frame out."""
    return Cost(FLOAT * ((2 * channels + 1) * pixels + frames), (3 * channels + 8) * pixels)


def pixels_backward_cost(frames: int, pixels: int, channels: int = 3) -> Cost:
    """Reads the inputs again and writes the gradient of one image."""
    return Cost(FLOAT * ((3 * channels + 1) * pixels + frames), (5 * channels + 10) * pixels)


def case(scene: Scene) -> Bench:
    """Noise for images; SEEN of the vertices, in runs as on a mesh, count."""
    size = scene.count, scene.mesh.vertices, scene.pixels

    def make(device: str, seed: int) -> Inputs:
        random = Random(device, seed)
        views = scene.views(random)
        height = views["vertices"][..., 2]
        nearer = (height < height.quantile(SEEN, dim=1, keepdim=True)).float()
        return {
            "images": random.uniform(scene.count, 3, scene.image, scene.image),
            "vertices": views["vertices"],
            "Ks": views["Ks"],
            "colors": random.uniform(scene.count, scene.mesh.vertices, 3),
            "weights": nearer,
        }

    return measured(
        scene,
        "vertex",
        scene.count * scene.mesh.vertices,
        op="photometric",
        shape=str(scene),
        make=make,
        run=lambda inputs, backend: photometric(**inputs, kind=KIND, backend=backend),
        differentiable=("vertices", "colors"),
        forward=forward_cost(*size),
        backward=backward_cost(*size),
        error=error_of_most,
    )


def pixels_case(scene: Scene) -> Bench:
    """Two images of noise."""
    shape = scene.count, scene.image, scene.image

    def make(device: str, seed: int) -> Inputs:
        random = Random(device, seed)
        return {
            "rendered": random.uniform(*shape, 3),
            "images": random.uniform(*shape, 3),
            "weights": (random.uniform(*shape) < SEEN).float(),
        }

    return measured(
        scene,
        "pixel",
        scene.pixels,
        op="photometric_pixels",
        shape=f"{scene.count} frames, {scene.image} px",
        make=make,
        run=lambda inputs, backend: (photometric_pixels(**inputs, kind=KIND, backend=backend),),
        differentiable=("rendered",),
        forward=pixels_forward_cost(scene.count, scene.pixels),
        backward=pixels_backward_cost(scene.count, scene.pixels),
    )


CASES = [
    *(case(scene) for scene in TRAINING),
    *(pixels_case(scene) for scene in TRAINING),
    *(case(scene) for scene in SUBJECTS),
]


def compile_cases() -> list[Case]:
    """Launches at vertices, by kind and by which gradients are needed, and over pixels, by kind and channels."""
    from fmlfast.kernels.photometric_pixels_triton import photometric_pixels_fwd_kernel
    from fmlfast.kernels.photometric_triton import (
        photometric_bwd_kernel,
        photometric_fwd_kernel,
        photometric_mean_kernel,
    )

    def rho(kind: str) -> dict[str, float]:
        return dict(zip(("ALPHA", "SCALE"), KINDS[kind], strict=True))

    options = {"num_warps": 4}
    gradients = {
        "no": (28 + 12, {"VERTICES": False, "COLORS": False, "d_vertices_ptr": None, "d_colors_ptr": None}),
        "colour": (28 + 24, {"VERTICES": False, "COLORS": True, "d_vertices_ptr": None}),
        "both": (28 + 36, {"VERTICES": True, "COLORS": True}),
    }
    return [
        *(
            Case(
                photometric_fwd_kernel,
                " ".join(["*fp32"] * (9 - list(constants.values()).count(None)) + ["i32"] * 4),
                {"WEIGHTED": True, **constants, **rho(kind), "BLOCK": 128},
                size,
                "vertex of a frame",
                f"{kind}, {needed} gradients",
                options,
                multiples=("H", "W"),
                step=InStep("photometric", sizes.VERTICES_OF_FRAMES, 128)
                if (kind, needed) == ("geman", "both")
                else None,
            )
            for kind in ("squared", "charbonnier", "geman")
            for needed, (size, constants) in gradients.items()
        ),
        Case(
            photometric_mean_kernel, "*fp32 *fp32 *fp32 i32", {"BLOCK": 1024}, 8, "block of vertices", options=options
        ),
        Case(
            photometric_bwd_kernel,
            "*fp32 *fp32 *fp32 *fp32 *fp32 *fp32 i32 i32",
            {"BLOCK": 1024},
            16,
            "number of each of two",
            options=options,
            step=InStep("photometric, backward", 3 * sizes.VERTICES_OF_FRAMES, 1024),
        ),
        Case(
            photometric_bwd_kernel,
            "*fp32 *fp32 *fp32 *fp32 i32 i32",
            {"second_ptr": None, "second_out_ptr": None, "BLOCK": 1024},
            8,
            "number",
            options=options,
            variant="one",
        ),
        *(
            Case(
                photometric_pixels_fwd_kernel,
                "*fp32 *fp32 *fp32 *fp32 *fp32 i32 i32 i32",
                {"WEIGHTED": True, "GRADIENT": True, **rho(kind), "BLOCK": 1024 // tile, "CHANNELS": tile},
                12 * channels + 4,
                "pixel",
                f"{kind}, {channels} channels",
                options,
            )
            for kind, channels, tile in (
                ("charbonnier", 1, 1),
                ("charbonnier", 3, 4),
                ("charbonnier", 64, 64),
                ("geman", 3, 4),
            )
        ),
    ]
