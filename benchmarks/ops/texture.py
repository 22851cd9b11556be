"""`texture` and `texture_mips`: trilinear lookups of one picture by all frames."""

import torch

from benchmarks.harness.case import Bench, Cost, Inputs, Outputs
from benchmarks.harness.compile_case import Case
from benchmarks.harness.scenes import Random, Scene
from benchmarks.harness.sizes import FLOAT, FRAME, IMAGES, PICTURES, measured
from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.texture import texture, texture_mips

CHANNELS = 3
LEVELS = ("mip1", "mip2")
"""Those that the lookups see."""


def side(scene: Scene) -> int:
    """Texels along a side: the power of two next above the picture's."""
    return 1 << scene.image.bit_length()


def mip_texels(size: int) -> int:
    """Texels of all levels above 0."""
    return (size**2 - 1) // 3


def forward_cost(pixels: int, texels: int, channels: int = CHANNELS) -> Cost:
    """Two coordinates and four derivatives a pixel, and the levels' texels in, an image out."""
    return Cost(FLOAT * ((6 + channels) * pixels + channels * texels), (20 + 15 * channels) * pixels)


def backward_cost(pixels: int, texels: int, channels: int = CHANNELS) -> Cost:
    """Reads the inputs and upstream, writes gradients of coordinates, derivatives and texels."""
    memory = forward_cost(pixels, texels, channels).bytes + FLOAT * (6 * pixels + channels * texels)
    return Cost(memory, (60 + 32 * channels) * pixels)  # a product and a sum for eight texels, and for their weights


def run(inputs: Inputs, backend: Backend | None) -> Outputs:  # [F, h, w, C]
    """Level 1 and on are inputs, so that the lookup alone is measured."""
    levels = [inputs[name] for name in LEVELS]
    return (texture(inputs["texels"], inputs["uv"], inputs["uv_da"], mips=levels, backend=backend),)


def case(scene: Scene) -> Bench:
    """Turned and shrunk pictures, each over about the whole texture and beyond its border."""
    size = side(scene)
    texels = sum((size >> k) ** 2 for k in range(1 + len(LEVELS)))

    def make(device: str, seed: int) -> Inputs:
        random = Random(device, seed)
        turn = random.rotations(scene.count)[:, :2, :2] * (1.2 / scene.image)  # from pixels
        middle = (scene.image - 1) / 2
        row, column = (torch.arange(scene.image, device=device) - middle for _ in range(2))
        grid = torch.stack(torch.meshgrid(column, row, indexing="xy"), -1)
        uv = torch.einsum("fij,hwj->fhwi", turn, grid) + 0.5
        texels = random.uniform(1, size, size, CHANNELS)
        wobble = random.uniform(scene.count, scene.image, scene.image, 4, low=0.5, high=3.0)  # levels 0 to 2
        return {
            "texels": texels,
            "uv": uv.contiguous(),
            "uv_da": wobble * turn.flatten(1)[:, None, None],
            **dict(zip(LEVELS, texture_mips(texels, len(LEVELS), backend="torch"), strict=True)),
        }

    return measured(
        scene,
        "pixel",
        scene.pixels,
        op="texture",
        shape=f"{scene.count} x {scene.image} px, {size} x {size} texels",
        make=make,
        run=run,
        differentiable=("texels", "uv", "uv_da", *LEVELS),
        forward=forward_cost(scene.pixels, texels),
        backward=backward_cost(scene.pixels, texels),
    )


def mips_case(scene: Scene) -> Bench:
    """All levels of one texture."""
    size = side(scene)
    moved = FLOAT * CHANNELS * (size**2 + mip_texels(size))
    return measured(
        scene,
        "texel",
        size**2,
        op="texture_mips",
        shape=f"{size} x {size} texels",
        make=lambda device, seed: {"texels": Random(device, seed).uniform(1, size, size, CHANNELS)},
        run=lambda inputs, backend: tuple(texture_mips(inputs["texels"], backend=backend)),
        differentiable=("texels",),
        forward=Cost(moved, 4 * CHANNELS * mip_texels(size)),
        backward=Cost(moved, 2 * CHANNELS * size**2),
    )


CASES = [
    *(case(scene) for scene in (*PICTURES, FRAME, *IMAGES)),
    *(mips_case(scene) for scene in PICTURES),
]


def compile_cases() -> list[Case]:
    """Launches for one channel, for colours and for features; the filters and costly boundaries for colours."""
    from fmlfast.kernels.texture_mips_triton import texture_mips_bwd_kernel, texture_mips_fwd_kernel
    from fmlfast.kernels.texture_torch import LARGEST, LEAST
    from fmlfast.kernels.texture_triton import BACKWARD, FORWARD, PIXELS, texture_bwd_kernel, texture_fwd_kernel

    blocks = {1: 1, 3: 4, 64: 16}  # channels: those of a tile
    sizes = "i32 i32 i32 i32 i32 i32"

    def launch(channels: int, boundary: str, mips: int, linear: bool = True) -> list[Case]:
        constexprs = {"CHANNELS": channels, "BOUNDARY": boundary, "LINEAR": linear, "MIPS": mips, "LEAST": LEAST}
        constexprs |= {"LARGEST": LARGEST, "BLOCK": PIXELS[blocks[channels]], "CHANNEL_BLOCK": blocks[channels]}
        unused = {} if mips else dict.fromkeys(("mips_ptr", "uv_da_ptr", "bias_ptr"))
        no_slopes = {} if mips == 2 else dict.fromkeys(("grad_uv_da_ptr", "grad_bias_ptr"))
        no_slopes |= {} if linear else {"grad_uv_ptr": None}
        pointers = 4 - len(unused) + 1
        words = (2 + boundary.count("cube")) * (1 + (2 if mips else 0)) + bool(mips)
        name = (
            f"C={channels} {boundary}, {['', 'nearest level, ', 'two levels, '][mips]}{'' if linear else 'not '}linear"
        )
        forward = "*fp32 " * (pointers + 1) + sizes
        backward = "*fp32 " * (pointers + 1) + "*fp32 *i64 " + "*fp32 " * (3 - len(no_slopes)) + sizes
        size, slopes = FLOAT * (words + channels), constexprs | unused | no_slopes
        return [
            Case(texture_fwd_kernel, forward, constexprs | unused, size, "pixel", name, FORWARD),
            Case(texture_bwd_kernel, backward, slopes, size + FLOAT * words, "pixel", name, BACKWARD[mips]),
        ]

    halving = {"CHANNELS": 3, "BLOCK": 512}, {"num_warps": 4}
    return [
        *(case for channels in blocks for case in launch(channels, "wrap", 2)),
        *(case for boundary in ("zero", "cube") for case in launch(3, boundary, 2)),
        *launch(3, "wrap", 1),
        *launch(3, "wrap", 0),
        *launch(3, "cube", 0),
        *launch(3, "wrap", 0, linear=False),
        Case(texture_mips_fwd_kernel, "*fp32 *fp32 i32 i32 i32", halving[0], FLOAT * 5, "number", "", halving[1]),
        Case(
            texture_mips_bwd_kernel, "*fp32 *fp32 *fp32 i32 i32 i32", halving[0], FLOAT * 2.25, "number", "", halving[1]
        ),
    ]
