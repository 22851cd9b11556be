"""Texture lookups: nearest, bilinear and trilinear, with mipmaps and cube maps, by OpenGL's conventions."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from .common.backend import Backend, choose_backend
from .common.checks import check_tensor
from .common.custom_op import register

FilterMode = Literal["auto", "nearest", "linear", "linear-mipmap-nearest", "linear-mipmap-linear"]
BoundaryMode = Literal["wrap", "clamp", "zero", "mirror", "cube"]


def texture(
    texels: Tensor,  # [F or 1, H, W, C], of a cube map [F or 1, 6, S, S, C]
    uv: Tensor,  # [F, h, w, 2], of a cube map [F, h, w, 3]
    uv_da: Tensor | None = None,  # [F, h, w, 4], of a cube map [F, h, w, 6]
    mip_level_bias: Tensor | None = None,  # [F, h, w]
    mips: Sequence[Tensor] | None = None,  # level k: [F or 1, H >> k, W >> k, C], of a cube map [F or 1, 6, ...]
    filter_mode: FilterMode = "auto",
    boundary_mode: BoundaryMode = "wrap",
    max_mip_level: int | None = None,
    backend: Backend | None = None,
) -> Tensor:  # [F, h, w, C]
    """Looks up a texture at every pixel, with gradients to texels, mips, coordinates, their derivatives and bias.

    As in OpenGL (4.6, section 8.14) texel (row j, column i) is centred at u = (i + 0.5) / W, v = (j + 0.5) / H, and row
    0 comes first in memory. The mip level is log2 of the longer of the pixel's two sides in the texture, which is the
    specification's own scale factor (equation 8.8), plus the bias: 0 is `texels`, k is `mips[k - 1]`. It is clamped to
    the levels there are. Where the sides are equally long each takes half of the gradient, as with `torch.maximum`.

    A cube map is looked up by a direction of any length, x right, y up and z towards +z; its faces are +x, -x, +y, -y,
    +z, -z, stored as OpenGL does (table 8.19). Filtering goes on across edges. At a corner of the cube, where three
    faces meet, the fourth texel is the mean of the other three.

    A pixel whose coordinates or level are not finite gets NaN and passes nothing on to the texels.

    Args:
        texels: [F, H, W, C] float32 or float64, any size, or [1, H, W, C] shared by all frames; of a cube map
            [F or 1, 6, S, S, C].
        uv: [F, h, w, 2] of the texels' dtype: u to the right and v downwards, 1 a whole texture; [F, h, w, 3] for a
            cube map.
        uv_da: [F, h, w, 4]: du/dX, du/dY, dv/dX, dv/dY, where X and Y are the picture's, in pixels; for a cube map six
            of x, y and z. Only filters with mips use it, and `mip_level_bias`; one of the two they need.
        mip_level_bias: [F, h, w], added to the level; the level itself without `uv_da`.
        mips: levels 1, 2, ..., each with sides of max(1, side >> level). Those of `texture_mips(texels)` by default,
            made in this call.
        filter_mode: "nearest", "linear" (bilinear), "linear-mipmap-nearest" (bilinear in the nearest level) or
            "linear-mipmap-linear" (trilinear). "auto" is the last where there is a level, else "linear".
        boundary_mode: of coordinates outside [0, 1]: "wrap" repeats the texture, "mirror" repeats it every other time
            mirrored, "clamp" goes on with its border, "zero" with zeros. "cube" for a cube map, and only there.
        max_mip_level: uses no level above this one.
        backend: "torch" or "triton" (float32); by default what suits the device.

    Returns:
        [F, h, w, C] of the texels' dtype.

    Raises:
        ValueError: wrong shape, dtype, device or value, naming the argument.
    """
    cube = _check_mode("boundary_mode", boundary_mode, BoundaryMode) == "cube"
    _check_mode("filter_mode", filter_mode, FilterMode)
    _check_texels(texels, cube)
    like, axes = ("texels", texels), 3 if cube else 2
    dtypes = (texels.dtype,)
    check_tensor("uv", uv, ("F", "h", "w", axes), dtypes, like)
    frames, height, width, _ = uv.shape
    if len(texels) not in (1, frames):
        raise ValueError(f"texels must be those of {frames} frames or of 1, as uv has {frames}, not {len(texels)}")
    if uv_da is not None:
        check_tensor("uv_da", uv_da, (frames, height, width, 2 * axes), dtypes, like)
    if mip_level_bias is not None:
        check_tensor("mip_level_bias", mip_level_bias, (frames, height, width), dtypes, like)
    _check_max_mip_level(max_mip_level)
    if mips is not None:
        mips = _checked_mips(mips, texels)[:max_mip_level]
    has_level = uv_da is not None or mip_level_bias is not None
    if filter_mode == "auto":
        filter_mode = "linear-mipmap-linear" if has_level else "linear"
    chosen = choose_backend(backend, texels)
    if "mipmap" in filter_mode and not has_level:
        raise ValueError(f"filter_mode {filter_mode!r} needs uv_da, mip_level_bias or both to choose the level by")
    if "mipmap" in filter_mode and mips is None:
        mips = texture_mips(texels, max_mip_level, cube, backend)
    if "mipmap" not in filter_mode or not mips:  # where there is one level, none is chosen
        filter_mode = "nearest" if filter_mode == "nearest" else "linear"
        uv_da, mip_level_bias, mips = None, None, ()
    # What a result steps with has no gradient: the place of the nearest texel, the nearest level.
    if filter_mode == "nearest":
        uv = uv.detach()
    if filter_mode == "linear-mipmap-nearest":
        uv_da, mip_level_bias = (None if x is None else x.detach() for x in (uv_da, mip_level_bias))
    packed = torch.cat([mip.flatten(1, -2) for mip in mips], 1) if mips else None
    return _texture(texels, packed, uv, uv_da, mip_level_bias, filter_mode, boundary_mode, len(mips), chosen)


def _forward(
    texels: Tensor,  # [F or 1, H, W, C], of a cube map [F or 1, 6, S, S, C]
    mips: Tensor | None,  # [F or 1, M, C], all levels above 0
    uv: Tensor,  # [F, h, w, 2], of a cube map [F, h, w, 3]
    uv_da: Tensor | None,  # [F, h, w, 4], of a cube map [F, h, w, 6]
    mip_level_bias: Tensor | None,  # [F, h, w]
    filter_mode: str,
    boundary_mode: str,
    highest: int,
    backend: str,
) -> Tensor:  # [F, h, w, C]
    """Looks up a texture."""
    if backend == "triton":
        from .texture_triton import texture_triton as look_up  # not before: Triton is not on every platform
    else:
        from .texture_torch import texture_torch as look_up
    return look_up(texels, mips, uv, uv_da, mip_level_bias, filter_mode, boundary_mode, highest)


def _backward(
    wanted: list[bool],
    grad_out: Tensor,  # [F, h, w, C]
    texels: Tensor,  # [F or 1, H, W, C], of a cube map [F or 1, 6, S, S, C]
    mips: Tensor | None,  # [F or 1, M, C], all levels above 0
    uv: Tensor,  # [F, h, w, 2], of a cube map [F, h, w, 3]
    uv_da: Tensor | None,  # [F, h, w, 4], of a cube map [F, h, w, 6]
    mip_level_bias: Tensor | None,  # [F, h, w]
    filter_mode: str,
    boundary_mode: str,
    highest: int,
    backend: str,
) -> list[Tensor]:  # as the five tensors
    """Differentiates by texels, mips and what chooses them."""
    if backend == "triton":
        from .texture_triton import texture_triton_backward as differentiate
    else:
        from .texture_torch import texture_torch_backward as differentiate
    return differentiate(wanted, grad_out, texels, mips, uv, uv_da, mip_level_bias, filter_mode, boundary_mode, highest)


def _fake(texels: Tensor, mips: Tensor | None, uv: Tensor, *_: object) -> Tensor:
    return uv.new_empty(*uv.shape[:3], texels.shape[-1])


def texture_mips(
    texels: Tensor,  # [F, H, W, C], of a cube map [F, 6, S, S, C]
    max_mip_level: int | None = None,
    cube: bool = False,
    backend: Backend | None = None,
) -> list[Tensor]:  # level k: [F, max(1, H >> k), max(1, W >> k), C], of a cube map [F, 6, ...]
    """Halves a texture again and again, down to one texel: means of 2 x 2 texels, of 2 along a side of 1.

    Args:
        texels: [F, H, W, C] float32 or float64, of a cube map [F, 6, S, S, C], whose faces are halved one by one. Sides
            must be even until they are 1, as powers of two are.
        max_mip_level: stops at this level; 0 makes none.
        cube: whether the texture is a cube map.
        backend: "torch" or "triton" (float32); by default what suits the device.

    Returns:
        Levels 1, 2, ..., for `texture`, with gradients to the texels.

    Raises:
        ValueError: wrong shape, dtype, device or value, naming the argument.
    """
    _check_texels(texels, cube)
    _check_max_mip_level(max_mip_level)
    height, width = texels.shape[-3:-1]
    levels = max(height, width).bit_length() - 1
    levels = levels if max_mip_level is None else min(levels, max_mip_level)
    for level in range(levels):
        sides = height >> level, width >> level
        if any(side > 1 and side % 2 for side in sides):
            raise ValueError(
                f"texels of {height} x {width} cannot be halved {levels} times, as {sides[0]} x {sides[1]} is odd: "
                f"resize them to powers of two, or pass max_mip_level={level} or mips of your own"
            )
    if choose_backend(backend, texels) == "triton":
        from .texture_mips_triton import texture_mips_triton  # not before: Triton is not on every platform

        return texture_mips_triton(texels, levels)
    from .texture_torch import texture_mips_torch

    return texture_mips_torch(texels, levels)


def _check_mode(name: str, mode: str, modes: object) -> str:
    if mode not in get_args(modes):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, get_args(modes)))}, not {mode!r}")
    return mode


def _check_texels(texels: Tensor, cube: bool) -> None:
    check_tensor("texels", texels, ("F or 1", 6, "S", "S", "C") if cube else ("F or 1", "H", "W", "C"))
    height, width, channels = texels.shape[-3:]
    if 0 in (height, width, channels):
        raise ValueError(f"texels must hold at least one texel and channel, not {list(texels.shape)}")
    if cube and height != width:
        raise ValueError(f"texels of a cube map must have square faces, not {height} x {width}")


def _check_max_mip_level(level: int | None) -> None:
    if level is not None and (not isinstance(level, int) or isinstance(level, bool) or level < 0):
        raise ValueError(f"max_mip_level must be None or an int of at least 0, not {level!r}")


def _checked_mips(mips: Sequence[Tensor], texels: Tensor) -> tuple[Tensor, ...]:
    """Raises ValueError unless these are levels 1, 2, ... of the texels, not more than there can be."""
    if not isinstance(mips, (list, tuple)):
        raise ValueError(f"mips must be a list of tensors, as texture_mips returns, not {type(mips).__name__}")
    *front, height, width, channels = texels.shape
    most = max(height, width).bit_length() - 1
    if len(mips) > most:
        raise ValueError(f"mips hold {len(mips)} levels, but {height} x {width} texels have {most} below them")
    for level, mip in enumerate(mips, 1):
        shape = (*front, max(1, height >> level), max(1, width >> level), channels)
        check_tensor(f"mips[{level - 1}]", mip, shape, (texels.dtype,), ("texels", texels))
    return tuple(mips)


_texture = register(
    "texture",
    _forward,
    _backward,
    _fake,
    outputs=("out",),
    gradients_to=("texels", "mips", "uv", "uv_da", "mip_level_bias"),
)
