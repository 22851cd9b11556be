# SPDX-License-Identifier: Apache-2.0
"""Hard pictures: odd sizes, degenerate and non-finite triangles, many queues, unaligned views."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fmlfast.kernels import antialias as A
from fmlfast.kernels import interpolate as I
from fmlfast.kernels import rasterize as R
from fmlfast.kernels import rasterize_triton
from fmlfast.kernels import visibility as V
from fmlfast.kernels.antialias_find_triton import find_silhouettes_triton
from fmlfast.kernels.common.backend import Backend
from tools.ptx.compare import compare, log, poisoned
from tools.ptx.driver import settings


def camera(frames: int, height: int, width: int, focal: float = 1.2) -> Tensor:
    k = torch.zeros(frames, 3, 3)
    k[:, 0, 0], k[:, 1, 1], k[:, 0, 2], k[:, 1, 2], k[:, 2, 2], k[:, 0, 1] = (
        focal * width,
        focal * height,
        width / 2,
        height / 2,
        1,
        0.01 * width,
    )
    return k


def soup(frames: int, triangles: int, size: float, seed: int, z: tuple[float, float] = (2, 4)) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    centre = (torch.rand(frames, triangles, 1, 3, generator=g) - 0.5) * 3
    centre[..., 2] = torch.rand(frames, triangles, 1, generator=g) * (z[1] - z[0]) + z[0]
    corners = centre + (torch.rand(frames, triangles, 3, 3, generator=g) - 0.5) * size
    return corners.reshape(frames, 3 * triangles, 3).contiguous(), torch.arange(3 * triangles, dtype=torch.int32).view(
        -1, 3
    )


def sheet(frames: int, rows: int, columns: int, seed: int, dtype: torch.dtype = torch.int32) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij")
    v = torch.stack([x, y, 3 + 0.3 * (x * x + y * y)], -1).view(1, -1, 3).repeat(frames, 1, 1)
    v = v + 0.2 * (torch.rand(v.shape, generator=g) - 0.5) / max(rows, columns)
    i = torch.arange(rows * columns).view(rows, columns)
    a, b, c, d = i[:-1, :-1], i[:-1, 1:], i[1:, :-1], i[1:, 1:]
    t = torch.cat([torch.stack([a, c, b], -1).view(-1, 3), torch.stack([b, c, d], -1).view(-1, 3)])
    return v.contiguous(), t.to(dtype).contiguous()


def picture(
    case: str, v: Tensor, t: Tensor, k: Tensor, height: int, width: int, cull: bool = False, near: float = 1e-2,
    channels: Sequence[int] = (1, 3, 4, 5), moved: bool = False,
) -> None:  # fmt: skip
    """All operations on pixels."""

    def draw(a: list[Any], backend: Backend) -> tuple[Tensor, Tensor, Tensor]:
        f = R.rasterize(a[0], a[1], a[2], height, width, cull, near, backend=backend)
        return f.triangle_id, f.barycentrics, torch.where(f.triangle_id >= 0, f.depth, 0.0)

    compare(f"{case}: rasterize", draw, [v, t, k], [1, 0, 0], (0, 1e-3), moved, exact=True)
    seen = R.rasterize(v, t, k, height, width, cull, near, backend="torch")
    frames, count = v.shape[:2]
    for c in channels:
        for sets in {1, frames}:
            values = torch.randn(sets, count, c)
            compare(
                f"{case}: interpolate {c}",
                lambda a, backend: I.interpolate(a[0], a[1], R.Fragments(a[2], a[3], seen.depth), backend),
                [values, t, seen.triangle_id, seen.barycentrics],
                [1, 0, 0, 1],
                (1e-5, 2e-4),
                moved,
            )
        if frames:
            compare(
                f"{case}: antialias {c}",
                lambda a, backend: A.antialias(
                    a[0], a[1], a[2], a[3], R.Fragments(a[4], seen.barycentrics, a[5]), backend
                ),
                [torch.rand(frames, height, width, c), v, t, k, seen.triangle_id, seen.depth],
                [1, 1, 0, 0, 0, 0],
                (1e-5, 1e-3),
                moved,
            )
    if frames:
        found, expected = poisoned(find_silhouettes_triton, v, t, k, seen), A.find_silhouettes(v, t, k, seen)
        if not torch.equal(found, expected):
            log.problem(case, f"silhouettes differ at {int((found != expected).sum())} of {found.numel()}")
    compare(
        f"{case}: visibility", lambda a, backend: V.vertex_visibility(*a, backend=backend),
        [v, torch.randn_like(v), k, seen.depth], [0] * 4, moved=moved, exact=True,
    )  # fmt: skip


def pictures() -> Iterator[tuple[Any, ...]]:
    """Arguments of `picture`."""
    big = torch.tensor([[[-9.0, -9, 3], [9, -9, 3], [0, 12, 3]]])
    yield "one triangle", big, torch.tensor([[0, 2, 1]], dtype=torch.int32), camera(1, 64, 65), 64, 65
    yield (
        "one triangle, int64, culled",
        big.repeat(3, 1, 1),
        torch.tensor([[0, 2, 1], [0, 1, 2]]),
        camera(3, 33, 31),
        33,
        31,
        True,
    )
    for h, w in ((1, 1), (1, 130), (257, 3), (2, 31), (16, 16)):
        yield f"soup {h} x {w}", *soup(2, 129, 0.5, h * w), camera(2, h, w), h, w
    yield "5000 tiny", *soup(1, 5000, 0.01, 5), camera(1, 50, 70), 50, 70, False, 1e-2, (3,)
    yield "1000", *soup(2, 1000, 0.2, 6), camera(2, 61, 77), 61, 77, False, 1e-2, (3, 64)
    yield "near plane", *soup(1, 300, 6.0, 7, (0, 3)), camera(1, 40, 37), 40, 37, False, 1.0, (2,)
    yield "behind", *soup(1, 300, 6.0, 8, (-2, 3)), camera(1, 40, 37), 40, 37, True, 0.5, (2,)
    v, t = soup(1, 200, 0.5, 9)
    v[0, ::7], v[0, 5::11, 0] = torch.nan, torch.inf
    v[0, 6::13] *= 1e20
    v[0, 9::17] *= 1e38
    yield "NaN, inf, huge", v, t, camera(1, 33, 29), 33, 29, False, 1e-2, (1,)
    v, t = soup(1, 200, 0.5, 10)
    t[::2, 1] = t[::2, 0]
    v[0, 3:-1:9] = v[0, 4::9][: len(v[0, 3:-1:9])]
    yield "degenerate", v, t, camera(1, 33, 29), 33, 29, False, 1e-2, (1,)
    for count in (1, 128):
        yield f"{count} triangles", *soup(1, count, 0.5, 11), camera(1, 20, 20), 20, 20, False, 1e-2, (3,)
    yield "sheet", *sheet(2, 20, 23, 1), camera(2, 48, 51), 48, 51, False, 1e-2, (1, 3, 4, 5, 16, 17, 33)
    yield "fine sheet, int64", *sheet(1, 60, 60, 2, torch.int64), camera(1, 64, 64), 64, 64, False, 1e-2, (3,)
    v, t = sheet(1, 20, 20, 3)
    yield "tiny numbers", v * 1e-30, t, camera(1, 40, 40), 40, 40, False, 1e-32, (1,)
    yield "no frames", v[:0], t, camera(0, 40, 40), 40, 40, False, 1.0, (1,)
    v, t = soup(1, 400, 0.5, 13)
    v[..., 2] = 2
    v[..., :2] = torch.round(v[..., :2] * 16) / 16 + 1 / 32
    yield (
        "vertices on pixel centres",
        v,
        t,
        torch.tensor([[[32.0, 0, 16], [0, 32, 16], [0, 0, 1]]]),
        32,
        32,
        False,
        1e-2,
        (1,),
    )


def raster() -> None:
    """All of them, by several numbers of programs and sizes of queues."""
    for case, *arguments in pictures():
        picture(case, *arguments)
    for programs in (1, 7):
        settings.multiprocessors = programs
        picture(f"{programs} multiprocessors", *soup(1, 3000, 0.3, 14), camera(1, 40, 40), 40, 40, channels=())
    settings.multiprocessors = 132
    usual = rasterize_triton._QUEUE
    for size in (1, 300):
        rasterize_triton._QUEUE = size
        picture(f"queues of {size}", *soup(2, 700, 0.4, 21), camera(2, 45, 47), 45, 47, channels=())
    rasterize_triton._QUEUE = usual
    picture("unaligned", *sheet(2, 20, 23, 5), camera(2, 48, 51), 48, 51, channels=(1, 3, 4, 16), moved=True)
