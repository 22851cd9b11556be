"""Draws triangles off screen by OpenGL, in software: Mesa's llvmpipe through moderngl and EGL, without a display."""

import importlib
import os
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

VERTEX = """#version 430
layout(std430, binding = 0) readonly buffer Positions { vec4 positions[]; };
layout(std430, binding = 1) readonly buffer Triangles { int triangles[]; };
layout(std430, binding = 2) readonly buffer Attributes { vec4 attributes[]; };
out vec3 barycentrics;
out vec4 blended;
void main() {
    int vertex = triangles[gl_VertexID], corner = gl_VertexID % 3;
    gl_Position = positions[vertex];
    barycentrics = vec3(corner == 0, corner == 1, corner == 2);
    blended = attributes[vertex];
}
"""
FRAGMENT = """#version 430
in vec3 barycentrics;
in vec4 blended;
layout(location = 0) out int triangle;
layout(location = 1) out vec4 where;
layout(location = 2) out vec4 color;
layout(location = 3) out vec4 derivatives;
void main() {
    triangle = gl_PrimitiveID;
    where = vec4(barycentrics.xy, gl_FragCoord.zw);
    color = blended;
    derivatives = vec4(dFdx(barycentrics.x), dFdy(barycentrics.x), dFdx(barycentrics.y), dFdy(barycentrics.y));
}
"""


class Picture(NamedTuple):
    """What was drawn; row 0 is at y = -1, and empty pixels hold anything but for `triangle_id`."""

    triangle_id: Tensor  # [H, W] int32, -1 where there is none
    barycentrics: Tensor  # [H, W, 3]
    depth: Tensor  # [H, W], z / w
    w: Tensor  # [H, W]
    attributes: Tensor  # [H, W, C]
    derivatives: Tensor  # [H, W, 4]: d b0/dx, d b0/dy, d b1/dx, d b1/dy by differences; [H, W, 0] if not asked for


@cache
def open_context() -> tuple[Any, str]:
    """A context of llvmpipe, or None and why there is none. It is current from then on."""
    with suppress(ImportError):
        importlib.import_module("triton")  # later it would crash: it would call Mesa's LLVM instead of its own
    os.environ["LIBGL_ALWAYS_SOFTWARE"] = "1"
    os.environ.setdefault("LP_NUM_THREADS", str(torch.get_num_threads()))
    # Textures without shortcuts: the longer side as it is, each pixel's own level, blends in float32.
    os.environ.setdefault("GALLIVM_PERF", "no_rho_approx,no_brilinear,no_quad_lod,no_aos_sampling")
    try:
        context = importlib.import_module("moderngl").create_context(standalone=True, backend="egl", require=430)
    except ModuleNotFoundError:
        return None, "not installed"
    except Exception as error:  # moderngl raises no class of its own
        return None, f"no OpenGL 4.3 by EGL: {' '.join(str(error).split())}"
    renderer = context.info["GL_RENDERER"]
    return (context, "") if renderer.startswith("llvmpipe") else (None, f"OpenGL is {renderer}, not llvmpipe")


class Canvas:
    """A framebuffer of one size."""

    def __init__(self, height: int, width: int, derivatives: bool = False) -> None:
        """`derivatives` also finds differences of the barycentrics within blocks of 2 x 2 pixels."""
        context, reason = open_context()
        if context is None:
            raise ImportError(reason)
        self.context, self.size = context, (height, width)
        self._program = context.program(vertex_shader=VERTEX, fragment_shader=FRAGMENT)
        self._corners = context.vertex_array(self._program, [])
        self._ids = context.texture((width, height), 1, dtype="i4")
        self._floats = [context.texture((width, height), 4, dtype="f4") for _ in range(3 if derivatives else 2)]
        depth = context.depth_renderbuffer((width, height))  # of 24 bits
        self._framebuffer = context.framebuffer([self._ids, *self._floats], depth)
        self._nothing = torch.full(self.size, -1, dtype=torch.int32).numpy()

    def draw(
        self,
        positions: Tensor,  # [V, 4]
        triangles: Tensor,  # [T, 3]
        attributes: Tensor | None = None,  # [V, C]
        cull_backfaces: bool = False,
    ) -> Picture:
        """Draws one mesh on an empty canvas.

        Args:
            positions: [V, 4] float32, clip space.
            triangles: [T, 3] int32.
            attributes: [V, C] float32, at most four channels.
            cull_backfaces: leave out triangles that are clockwise, seen with x to the right and y upwards.
        """
        context, channels = self.context, 0 if attributes is None else attributes.shape[1]
        colors = torch.zeros(len(positions), 4)
        if attributes is not None:
            colors[:, :channels] = attributes.detach()
        buffers = [context.buffer(a.detach().contiguous().numpy()) for a in (positions, triangles, colors)]
        for binding, buffer in enumerate(buffers):
            buffer.bind_to_storage_buffer(binding)
        self._framebuffer.use()
        self._framebuffer.clear(depth=1.0)
        self._ids.write(self._nothing)
        context.enable_only(context.DEPTH_TEST | (context.CULL_FACE if cull_backfaces else context.NOTHING))
        self._corners.render(context.TRIANGLES, vertices=triangles.numel())
        for buffer in buffers:
            buffer.release()
        return self._picture(channels)

    def _picture(self, channels: int) -> Picture:
        ids = self._read(self._ids, 1, torch.int32)[..., 0]
        first, second, depth, reciprocal = self._read(self._floats[0], 4).unbind(-1)
        barycentrics = torch.stack([first, second, 1 - first - second], -1)
        color = self._read(self._floats[1], 4)[..., :channels] if channels else torch.empty(*self.size, 0)
        derivatives = self._read(self._floats[2], 4) if len(self._floats) > 2 else torch.empty(*self.size, 0)
        return Picture(ids, barycentrics, 2 * depth - 1, 1 / reciprocal, color, derivatives)

    def _read(self, texture: Any, channels: int, dtype: torch.dtype = torch.float32) -> Tensor:  # [H, W, C]
        read = torch.empty(*self.size, channels, dtype=dtype)
        texture.read_into(read.numpy())
        return read


@cache
def canvas(height: int, width: int, derivatives: bool = False) -> Canvas:
    """The canvas of a size, made at its first use."""
    return Canvas(height, width, derivatives)
