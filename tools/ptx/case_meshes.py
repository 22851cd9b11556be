# SPDX-License-Identifier: Apache-2.0
"""Hard meshes and losses: odd sizes, weights of zero, numbers that are not finite, each set of gradients."""

import itertools
from typing import Any

import torch
from torch import Tensor

from fmlfast.kernels import normals as N
from fmlfast.kernels import photometric as P
from fmlfast.kernels import shading as S
from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.photometric_pixels import photometric_pixels
from tools.ptx.case_pictures import camera, sheet
from tools.ptx.compare import compare


def meshes() -> None:
    """Normals and shading."""
    for frames, count, sets in ((1, 1, 1), (3, 31, 3), (4, 33, 2), (2, 127, 1), (2, 129, 2), (3, 500, 1), (2, 1031, 2)):
        g = torch.Generator().manual_seed(count)
        t = torch.randint(0, count, (2 * count, 3), generator=g, dtype=torch.int32 if count % 2 else torch.int64)
        v = torch.randn(frames, count, 3, generator=g)
        sh, reflectance = torch.randn(frames, 9, 3, generator=g), torch.rand(sets, count, 3, generator=g)
        unit = torch.nn.functional.normalize(torch.randn(frames, count, 3, generator=g), dim=-1)
        size = f"{frames} x {count}, {sets} sets"
        compare(f"normals {size}", lambda a, backend, t=t: N.vertex_normals(a[0], t, backend), [v], [1])
        for needed in itertools.product((0, 1), repeat=3):
            compare(
                f"shade_vertices {size} {needed}",
                lambda a, backend, t=t: S.shade_vertices(a[0], t, a[1], a[2], backend),
                [v, reflectance, sh],
                needed,
                3e-4,
            )
            compare(
                f"shade_sh {size} {needed}",
                lambda a, backend: S.shade_sh(*a, backend=backend),
                [reflectance, unit, sh],
                needed,
                3e-4,
            )
    for name, change in (("NaN", torch.nan), ("zero", 0.0), ("huge", 1e18), ("tiny", 1e-18)):
        v, t = sheet(2, 17, 19, 4)
        v = v.clone()
        if name == "NaN":
            v[0, 5] = change
        else:
            v *= change
        compare(f"normals {name}", lambda a, backend, t=t: N.vertex_normals(a[0], t, backend), [v], [1])


def losses() -> None:
    """Photometric losses."""
    for kind in P.KINDS:
        for frames, count, h, w, weighted in (
            (1, 1, 1, 1, 0),
            (2, 33, 5, 1, 1),
            (3, 127, 1, 7, 1),
            (2, 129, 8, 9, 0),
            (2, 1031, 31, 33, 1),
            (0, 5, 3, 3, 0),
            (2, 0, 3, 3, 1),
        ):
            g = torch.Generator().manual_seed(count + h)
            v = torch.randn(frames, count, 3, generator=g)
            v[..., 2] = v[..., 2].abs() + 0.5
            weights = (
                torch.rand(frames, count, generator=g) * (torch.rand(frames, count, generator=g) > 0.3)
                if weighted
                else None
            )
            if weights is not None and count > 40:
                v[:, 3], v[:, 5, 0], v[:, 7, 2], weights[:, 3:8] = torch.nan, torch.inf, 1e-30, 0
            if count > 100:
                v[:, 11, 0] = 1e30
            images, colours, k = (
                torch.rand(frames, 3, h, w, generator=g),
                torch.rand(frames, count, 3, generator=g),
                camera(frames, h, w),
            )

            def loss(a: list[Any], backend: Backend, kind: str = kind) -> tuple[Tensor, Tensor]:
                value, sampled = P.photometric(a[0], a[1], a[2], a[3], a[4], kind, backend)
                return value, sampled if a[4] is None else torch.where((a[4] == 0)[..., None], 0.0, sampled)

            for needed in ((1, 1), (1, 0), (0, 1), (0, 0)):
                compare(
                    f"photometric {kind} {frames} x {count}, {h} x {w}",
                    loss,
                    [images, v, k, colours, weights],
                    [0, needed[0], 0, needed[1], 0],
                    1e-3,
                )
        for frames, h, w, c, weighted in (
            (1, 1, 1, 1, 0),
            (2, 5, 31, 3, 1),
            (2, 33, 32, 3, 0),
            (1, 9, 13, 64, 1),
            (2, 40, 40, 5, 1),
            (0, 4, 4, 3, 1),
            (2, 0, 4, 3, 1),
            (2, 4, 4, 0, 1),
        ):
            g = torch.Generator().manual_seed(c + h)
            a, b = torch.rand(2, frames, h, w, c, generator=g)
            weights = (
                torch.rand(frames, h, w, generator=g) * (torch.rand(frames, h, w, generator=g) > 0.3)
                if weighted
                else None
            )
            if weights is not None and h > 2 and c:
                a[:, 1, 1], weights[:, 1, 1] = torch.nan, 0
            compare(
                f"photometric_pixels {kind} {frames} x {h} x {w} x {c}",
                lambda x, backend, kind=kind: photometric_pixels(*x, kind=kind, backend=backend),
                [a, b, weights],
                [1, 0, 0],
                1e-3,
            )
