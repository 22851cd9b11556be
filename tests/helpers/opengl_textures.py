"""Textures sampled by OpenGL, a lookup a pixel."""

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.opengl_canvas import open_context
from tests.helpers.opengl import need_opengl

TEXTURE_2D, CUBE_MAP, FACE = 0x0DE1, 0x8513, 0x8515
MAG_FILTER, MIN_FILTER, WRAP_S, WRAP_T, WRAP_R = 0x2800, 0x2801, 0x2802, 0x2803, 0x8072
BASE_LEVEL, MAX_LEVEL, LOD_BIAS, SEAMLESS = 0x813C, 0x813D, 0x8501, 0x884F
RGBA32F, RGBA, FLOAT = 0x8814, 0x1908, 0x1406
FILTERS = {"nearest": 0x2600, "linear": 0x2601, "linear-mipmap-nearest": 0x2701, "linear-mipmap-linear": 0x2703}
WRAPS = {"wrap": 0x2901, "clamp": 0x812F, "zero": 0x812D, "mirror": 0x8370, "cube": 0x812F}
VERTEX = """#version 430
void main() { gl_Position = vec4(gl_VertexID == 1 ? 3 : -1, gl_VertexID == 2 ? 3 : -1, 0, 1); }
"""
FRAGMENT = """#version 430
uniform %(sampler)s image;
uniform sampler2D where, across, along;
out vec4 color;
void main() {
    ivec2 pixel = ivec2(gl_FragCoord.xy);
    vec4 at = texelFetch(where, pixel, 0), right = texelFetch(across, pixel, 0), up = texelFetch(along, pixel, 0);
    color = %(lookup)s;
}
"""
LOOKUPS = {
    "level": "textureLod(image, at.%(axes)s, at.w)",
    "gradients": "textureGrad(image, at.%(axes)s, right.%(axes)s, up.%(axes)s)",
}


@cache
def _function(name: str, *types: Any) -> Any:
    """A function of OpenGL that moderngl does not offer."""
    library = ctypes.CDLL("libEGL.so.1")
    library.eglGetProcAddress.restype = ctypes.c_void_p
    return ctypes.CFUNCTYPE(None, *types)(library.eglGetProcAddress(name.encode()))


def _set(target: int, parameter: int, value: float) -> None:
    types = ctypes.c_uint, ctypes.c_uint, ctypes.c_float
    _function("glTexParameterf", *types)(target, parameter, value)


def _upload(target: int, level: int, texels: Tensor) -> None:  # [H, W, 4]
    height, width, _ = texels.shape
    types = (*(ctypes.c_uint,) * 8, ctypes.c_void_p)
    pointer = texels.contiguous().data_ptr()
    _function("glTexImage2D", *types)(target, level, RGBA32F, width, height, 0, RGBA, FLOAT, pointer)


@cache
def _program(cube: bool, lookup: str) -> Any:
    axes = "xyz" if cube else "xy"
    parts = {"sampler": "samplerCube" if cube else "sampler2D", "lookup": LOOKUPS[lookup] % {"axes": axes}}
    program = open_context()[0].program(vertex_shader=VERTEX, fragment_shader=FRAGMENT % parts)
    for unit, name in enumerate(("image", "where", "across", "along")):
        if name in program:
            program[name] = unit
    return program


def _texture(levels: Sequence[Tensor], filter_mode: str, boundary_mode: str, bias: float) -> Any:
    """A texture of float32 levels [H, W, 4] or [6, S, S, 4], bound to unit 0."""
    cube = boundary_mode == "cube"
    context, side = open_context()[0], levels[0].shape[-2]
    if cube:
        texture, target = context.texture_cube((side, side), 4, dtype="f4"), CUBE_MAP
    else:
        texture, target = context.texture((side, len(levels[0])), 4, dtype="f4"), TEXTURE_2D
    texture.use(0)
    for level, texels in enumerate(levels):
        for face, part in enumerate(texels if cube else [texels]):
            _upload(FACE + face if cube else TEXTURE_2D, level, part)
    basic = "nearest" if filter_mode == "nearest" else "linear"
    settings = {MIN_FILTER: FILTERS[filter_mode], MAG_FILTER: FILTERS[basic], LOD_BIAS: bias}
    settings |= dict.fromkeys((WRAP_S, WRAP_T, WRAP_R), WRAPS[boundary_mode])  # a border is 0 where nobody sets it
    for name, value in (settings | {BASE_LEVEL: 0, MAX_LEVEL: len(levels) - 1}).items():
        _set(target, name, value)
    return texture


def sample(
    levels: Sequence[Tensor],  # [H, W, C], of a cube map [6, S, S, C]
    uv: Tensor,  # [h, w, 2], of a cube map [h, w, 3]
    filter_mode: str,
    boundary_mode: str,
    level: Tensor | None = None,  # [h, w]
    uv_da: Tensor | None = None,  # [h, w, 4], of a cube map [h, w, 6]
    bias: float = 0.0,
) -> Tensor:  # [h, w, C]
    """Looks up float32 textures of at most four channels, at a level that is given or follows from derivatives.

    Modes have the names of `texture`; cube maps are filtered across their edges.
    """
    need_opengl()
    context, _ = open_context()
    height, width, axes = uv.shape
    fill = lambda x, channels: torch.nn.functional.pad(x.float(), (0, channels - x.shape[-1]))  # noqa: E731
    where = fill(uv, 4)
    if level is not None:
        where[..., 3] = level
    sides = [] if uv_da is None else [fill(x, 4) for x in uv_da.view(height, width, axes, 2).unbind(-1)]
    kept = [_texture([fill(x, 4) for x in levels], filter_mode, boundary_mode, bias)]
    for unit, values in enumerate([where, *sides], 1):
        kept.append(context.texture((width, height), 4, values.contiguous().numpy(), dtype="f4"))
        kept[-1].use(unit)
    target = context.texture((width, height), 4, dtype="f4")
    framebuffer = context.framebuffer([target])
    framebuffer.use()
    context.enable_only(context.NOTHING)
    context.enable_direct(SEAMLESS)
    program = _program(boundary_mode == "cube", "level" if uv_da is None else "gradients")
    corners = context.vertex_array(program, [])
    corners.render(context.TRIANGLES, vertices=3)
    found = torch.frombuffer(bytearray(target.read()), dtype=torch.float32).view(height, width, 4)
    for made in (corners, framebuffer, target, *kept):
        made.release()
    return found[..., : levels[0].shape[-1]]
