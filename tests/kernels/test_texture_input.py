"""Texture lookups: what is refused, in whose name, and what is empty."""

from typing import Any

import pytest
import torch

from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.texture import texture, texture_mips

backends = pytest.mark.parametrize("backend", ["torch", "triton"])


def mips(*sides: int) -> list[torch.Tensor]:
    return [torch.zeros(2, s, s, 3) for s in sides]


@backends
@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("texels must be \\[F or 1, H, W, C\\]", {"texels": torch.zeros(8, 8, 3)}),
        ("texels must be those of 2 frames or of 1", {"texels": torch.zeros(3, 8, 8, 3)}),
        ("texels must be float32", {"texels": torch.zeros(2, 8, 8, 3, dtype=torch.int32)}),
        ("texels must be contiguous", {"texels": torch.zeros(1, 8, 8, 3).expand(2, 8, 8, 3)}),
        ("texels must hold at least one", {"texels": torch.zeros(2, 0, 8, 3)}),
        ("texels must hold at least one", {"texels": torch.zeros(2, 8, 8, 0)}),
        ("texels must be \\[F or 1, 6, S, S, C\\]", {"boundary_mode": "cube"}),
        ("texels of a cube map must have square", {"texels": torch.zeros(1, 6, 4, 8, 3), "boundary_mode": "cube"}),
        ("uv must be \\[F, h, w, 3\\]", {"texels": torch.zeros(1, 6, 4, 4, 3), "boundary_mode": "cube"}),
        ("uv must be \\[F, h, w, 2\\]", {"uv": torch.zeros(2, 4, 5, 3)}),
        ("uv must be float32, not float64", {"uv": torch.zeros(2, 4, 5, 2).double()}),
        ("uv is on meta", {"uv": torch.zeros(2, 4, 5, 2, device="meta")}),
        ("uv_da must be \\[2, 4, 5, 4\\]", {"uv_da": torch.zeros(2, 4, 5, 2)}),
        ("mip_level_bias must be \\[2, 4, 5\\]", {"mip_level_bias": torch.zeros(2, 4, 5, 1)}),
        ("mips must be a list", {"mips": torch.zeros(2, 4, 4, 3)}),
        ("mips hold 4 levels, but 8 x 8 texels have 3", {"mips": mips(4, 2, 1, 1)}),
        ("mips\\[1\\] must be \\[2, 2, 2, 3\\]", {"mips": mips(4, 3)}),
        ("filter_mode must be one of 'auto', ", {"filter_mode": "bilinear"}),
        ("boundary_mode must be one of 'wrap', ", {"boundary_mode": "repeat"}),
        ("filter_mode 'linear-mipmap-linear' needs uv_da", {"filter_mode": "linear-mipmap-linear", "uv_da": None}),
        ("max_mip_level must be None or an int", {"max_mip_level": -1}),
        ("max_mip_level must be None or an int", {"max_mip_level": 1.0}),
        ("texels of 12 x 4 cannot be halved 3 times, as 3 x 1 is.*level=2", {"texels": torch.zeros(1, 12, 4, 3)}),
        ("backend must be", {"backend": "numpy"}),
    ],
)  # fmt: skip
def test_bad_input_names_the_argument(message: str, change: dict, backend: Backend):
    good: dict[str, Any] = {
        "texels": torch.zeros(2, 8, 8, 3),
        "uv": torch.zeros(2, 4, 5, 2),
        "uv_da": torch.zeros(2, 4, 5, 4),
    }
    good |= {"backend": backend}
    texture(**good)
    with pytest.raises(ValueError, match=f"^{message}"):
        texture(**(good | change))


@backends
def test_bad_textures_are_not_halved(backend: Backend):
    for message, texels, more in (
        ("texels must be \\[F or 1, H, W, C\\]", torch.zeros(1, 6, 4, 4, 3), {}),
        ("texels of a cube map must have square", torch.zeros(1, 6, 4, 8, 3), {"cube": True}),
        ("texels of 6 x 6 cannot be halved 2 times, as 3 x 3 is odd", torch.zeros(1, 6, 6, 3), {}),
        ("max_mip_level must be", torch.zeros(1, 4, 4, 3), {"max_mip_level": True}),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            texture_mips(texels, **more, backend=backend)
    assert [x.shape[1] for x in texture_mips(torch.zeros(1, 6, 6, 3), 1, backend=backend)] == [3]


@backends
@pytest.mark.parametrize("textures", [0, 1])
@pytest.mark.parametrize("shape", [(0, 4, 5), (2, 0, 5), (2, 4, 0)])
def test_no_pixels(shape: tuple[int, ...], textures: int, backend: Backend, device: str):
    texels = torch.ones(textures if shape[0] == 0 else 1, 8, 4, 3, device=device).requires_grad_()
    uv, uv_da = torch.ones(*shape, 2, device=device), torch.ones(*shape, 4, device=device).requires_grad_()
    out = texture(texels, uv.requires_grad_(), uv_da, backend=backend)
    assert out.shape == (*shape, 3)
    for found, like in zip(torch.autograd.grad(out.sum(), (texels, uv, uv_da)), (texels, uv, uv_da), strict=True):
        assert torch.equal(found, torch.zeros_like(like))


def test_kernels_compute_in_float32():
    double = torch.zeros(1, 4, 4, 3).double(), torch.zeros(2, 4, 5, 2).double()
    texture(*double, backend="torch")
    for call in (lambda: texture(*double, backend="triton"), lambda: texture_mips(double[0], backend="triton")):
        with pytest.raises(ValueError, match="float32"):
            call()
