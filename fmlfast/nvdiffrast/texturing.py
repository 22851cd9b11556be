"""Texture lookups by nvdiffrast's calls."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fmlfast.kernels.common.checks import check_tensor
from fmlfast.kernels.texture import BoundaryMode, FilterMode, texture_mips
from fmlfast.kernels.texture import texture as _texture


class MipStack:
    """The mipmaps of a texture that stays constant; see `texture_construct_mip`."""

    def __init__(self, tex: Tensor, max_mip_level: int | None, cube_mode: bool) -> None:
        self.options = max_mip_level, cube_mode
        self.shape = tex.shape
        self.levels = texture_mips(tex.detach(), *self.options)

    def of(self, tex: Tensor) -> list[Tensor]:
        """The levels, with a graph of their own to a texture that learns: one of the construction would serve once."""
        if tex.shape != self.shape:
            raise ValueError(f"mip is of a texture {list(self.shape)}, but tex is {list(tex.shape)}")
        return texture_mips(tex, *self.options) if tex.requires_grad and torch.is_grad_enabled() else self.levels


def texture(
    tex: Tensor,  # [N or 1, H, W, C], of a cube map [N or 1, 6, S, S, C]
    uv: Tensor,  # [N, h, w, 2], of a cube map [N, h, w, 3]
    uv_da: Tensor | None = None,  # [N, h, w, 4], of a cube map [N, h, w, 6]
    mip_level_bias: Tensor | None = None,  # [N, h, w]
    mip: MipStack | Sequence[Tensor] | None = None,
    filter_mode: FilterMode = "auto",
    boundary_mode: BoundaryMode = "wrap",
    max_mip_level: int | None = None,
) -> Tensor:  # [N, h, w, C]
    """Looks up a texture, with gradients to every tensor; modes are those of `fmlfast.kernels.texture.texture`.

    Args:
        tex: [N, H, W, C] float32, [1, H, W, C] shared by all pictures, [N or 1, 6, S, S, C] with boundary_mode "cube".
        uv: [N, h, w, 2], of a cube map [N, h, w, 3]; there directions without a length give 0 and have no gradient.
        uv_da: derivatives of `uv` per pixel, twice as many channels: the second result of `interpolate`.
        mip_level_bias: [N, h, w], added to the level of `uv_da`, or the level itself.
        mip: result of `texture_construct_mip`, whose gradients go to `tex`, or a list of levels 1, 2, ..., which get
            gradients of their own.
        filter_mode: "auto", "nearest", "linear", "linear-mipmap-nearest" or "linear-mipmap-linear".
        boundary_mode: "wrap", "clamp", "zero", "cube", and "mirror".
        max_mip_level: the highest level made and used.
    """
    cube = boundary_mode == "cube"
    axes = 3 if cube else 2
    tex = _checked_texture(tex, cube)
    like, dtypes = ("tex", tex), (tex.dtype,)
    check_tensor("uv", uv, ("N", "h", "w", axes), dtypes, like, contiguous=False)
    if len(tex) not in (1, len(uv)):
        raise ValueError(f"tex must be those of {len(uv)} pictures or of 1, as uv has {len(uv)}, not {len(tex)}")
    if uv_da is not None:
        check_tensor("uv_da", uv_da, (*uv.shape[:3], 2 * axes), dtypes, like, contiguous=False)
    if mip_level_bias is not None:
        check_tensor("mip_level_bias", mip_level_bias, tuple(uv.shape[:3]), dtypes, like, contiguous=False)
    levels = None if mip is None else _levels(mip, tex)
    seen = None
    if cube:
        longest = uv.detach().abs().amax(-1, keepdim=True)
        seen = (longest > 0) & longest.isfinite()
        uv = torch.where(seen, uv, 1)
        uv_da = None if uv_da is None else torch.where(seen, uv_da, 0)
    uv_da, mip_level_bias = (None if x is None else x.contiguous() for x in (uv_da, mip_level_bias))
    image = _texture(tex, uv.contiguous(), uv_da, mip_level_bias, levels, filter_mode, boundary_mode, max_mip_level)
    return image if seen is None else torch.where(seen, image, 0)


def texture_construct_mip(
    tex: Tensor,  # [N, H, W, C], of a cube map [N, 6, S, S, C]
    max_mip_level: int | None = None,
    cube_mode: bool = False,
) -> MipStack:
    """Makes the mipmaps of a texture that stays constant, for argument `mip` of `texture`."""
    return MipStack(_checked_texture(tex, cube_mode), max_mip_level, cube_mode)


def _levels(mip: MipStack | Sequence[Tensor], tex: Tensor) -> list[Tensor]:
    if isinstance(mip, MipStack):
        return mip.of(tex)
    if not isinstance(mip, (list, tuple)):
        raise ValueError(f"mip must be a list or what texture_construct_mip returned, not {type(mip).__name__}")
    for i, level in enumerate(mip):
        check_tensor(f"mip[{i}]", level, (*tex.shape[:-3], "h", "w", tex.shape[-1]), contiguous=False)
    return [level.contiguous() for level in mip]


def _checked_texture(tex: Tensor, cube: bool) -> Tensor:
    shape = ("N", 6, "S", "S", "C") if cube else ("N", "H", "W", "C")
    if isinstance(tex, Tensor) and tex.ndim == 9 - len(shape):
        raise ValueError(f"tex is {list(tex.shape)}: cube maps have 5 dimensions, boundary_mode='cube', cube_mode=True")
    check_tensor("tex", tex, shape, contiguous=False)
    return tex.contiguous()
