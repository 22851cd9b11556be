# SPDX-License-Identifier: Apache-2.0
"""Hard sizes of the model's operations: decoder, deformation, priors and low-rank Adam."""

import time

import torch

from fmlfast.kernels import blendshape as B
from fmlfast.kernels import deform as D
from fmlfast.kernels import deviation as DV
from fmlfast.kernels import low_rank_adam as L
from fmlfast.kernels import sparsity as SP
from tools.ptx.compare import compare, difference, log, poisoned


def models() -> None:
    """All of them."""
    for subjects, count in ((1, 1), (1, 2), (3, 31), (2, 171), (8, 500), (2, 2731), (0, 5), (9, 33)):
        g = torch.Generator().manual_seed(count)
        compare(
            f"deviation {subjects} x {count}",
            lambda a, backend: DV.deviation(*a, backend=backend),
            [torch.randn(subjects, count, 3, generator=g), torch.randn(count, 3, generator=g)],
            [1, 1],
            1e-5,
        )
    for subjects, frames, count, edges in (
        (1, 1, 1, 1),
        (1, 2, 2, 3),
        (2, 3, 31, 40),
        (3, 4, 129, 500),
        (2, 1, 257, 300),
        (8, 4, 500, 1500),
        (2, 0, 10, 5),
        (0, 2, 10, 5),
    ):
        g = torch.Generator().manual_seed(count)
        colours = torch.rand(subjects, frames, count, 3, generator=g)
        weights = torch.rand(subjects, frames, count, generator=g) * (
            torch.rand(subjects, frames, count, generator=g) > 0.4
        )
        if count > 20 and frames:
            colours[:, 0, 3], weights[:, 0, 3], colours[:, 0, 4] = torch.nan, 0, 0
        chroma, known = compare(
            f"chromaticity {subjects} x {frames} x {count}",
            lambda a, backend: SP.chromaticity(*a, backend=backend),
            [colours, weights],
            [0, 0],
            1e-5,
        )
        ends = torch.randint(0, count, (edges, 2), generator=g)
        for eta, p in ((80.0, 0.9), (0.0, 2.0), (1e6, 0.1)):
            compare(
                f"sparsity {subjects} x {count}, {edges}",
                lambda a, backend, e=ends, eta=eta, p=p: SP.sparsity(a[0], a[1], a[2], e, eta, p, backend),
                [torch.rand(subjects, count, 3, generator=g), chroma, known],
                [1, 0, 0],
            )
    for rows, terms, columns, padding, half in (
        (1, 1, 1, 0, 0),
        (2, 3, 31, 1, 0),
        (8, 500, 129, 15, 0),
        (3, 31, 500, 0, 1),
        (17, 33, 257, 7, 0),
        (33, 7, 1000, 8, 1),
        (16, 129, 2049, 15, 0),
        (5, 4, 4100, 0, 0),
        (0, 4, 10, 0, 0),
        (3, 0, 10, 0, 0),
        (32, 51, 700, 4, 0),
    ):
        g = torch.Generator().manual_seed(columns)
        basis = torch.randn(terms, columns + padding, generator=g)
        basis[:, columns:] = 0
        codes, mean = torch.randn(rows, terms, generator=g), torch.randn(columns, generator=g)
        for needed in ((1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1)):
            compare(
                f"linear_decode {rows} x {terms} x {columns} + {padding}",
                lambda a, backend: B.linear_decode(*a, backend=backend),
                [codes, basis.bfloat16() if half else basis, mean],
                needed,
                1e-2 if half else 1e-4,
            )
    for subjects, frames, count, nodes, terms, half, wide in (
        (1, 1, 1, 1, 1, 0, 0),
        (2, 3, 31, 5, 2, 0, 1),
        (3, 5, 65, 7, 5, 1, 0),
        (8, 4, 129, 40, 51, 0, 0),
        (9, 2, 127, 3, 4, 0, 1),
        (1, 17, 200, 20, 3, 0, 0),
        (1, 33, 64, 2, 9, 0, 0),
        (20, 1, 63, 9, 6, 0, 0),
        (4, 4, 500, 50, 0, 0, 0),
    ):
        g = torch.Generator().manual_seed(count)
        indices = torch.randint(0, nodes, (count, 8), generator=g, dtype=torch.int64 if wide else torch.int32)
        weights = torch.rand(count, 8, generator=g)
        expressions = torch.randn(terms, count, 3, generator=g)
        rotation = torch.linalg.qr(torch.randn(subjects, frames, 3, 3, generator=g))[0].contiguous()
        tensors = [
            torch.randn(count, 3, generator=g),
            torch.randn(subjects, nodes, 3, generator=g),
            indices,
            weights / weights.sum(1, keepdim=True),
            expressions.bfloat16() if half else expressions,
            torch.randn(subjects, frames, terms, generator=g),
            rotation,
            torch.randn(subjects, frames, 3, generator=g),
        ]
        size, tolerance = f"deform {subjects} x {frames} x {count}, {nodes}, {terms}", 1e-2 if half else 1e-4
        for which in (None, 0, 1, 4, 5, 6, 7):
            needed = [which is None or which == n for n in range(8)]
            needed[2] = needed[3] = False
            for posed in (8, 6) if which not in (6, 7) else (8,):  # tensors
                compare(
                    f"{size} {which}, {posed} tensors",
                    lambda a, backend: D.deform(*a, backend=backend),
                    tensors[:posed],
                    needed[:posed],
                    tolerance,
                )
        skin = tensors[1:4]
        compare(f"{size}, skinning", lambda a, backend: D.skin_displacements(*a, backend=backend), skin, [1, 0, 0])
    for rows, terms, columns, padding, half in (
        (1, 1, 1, 0, 0),
        (3, 2, 4097, 15, 1),
        (2, 3, 31, 1, 0),
        (8, 20, 129, 15, 1),
        (17, 9, 257, 7, 0),
        (40, 5, 300, 4, 1),
        (16, 33, 2100, 12, 0),
        (0, 4, 40, 0, 0),
    ):
        for wanted in (True, False):
            start, results = time.time(), []
            for backend in ("triton", "torch"):
                g = torch.Generator().manual_seed(columns)
                basis, first, second = (torch.randn(terms, columns + padding, generator=g) for _ in range(3))
                second = second.square() * 0.01
                for x in (basis, first, second):
                    x[:, columns:] = 0
                kept = [x.bfloat16() if half else x for x in (first * 0.1, second)]
                codes, upstream = torch.randn(rows, terms, generator=g), torch.randn(rows, columns, generator=g)
                to_codes = poisoned(
                    L.low_rank_adam_,
                    basis,
                    *kept,
                    codes,
                    upstream,
                    torch.tensor(3.0),
                    1e-2,
                    (0.9, 0.99),
                    1e-8,
                    wanted,
                    backend,
                )
                results.append((basis, *(x.float() for x in kept), to_codes))
            case = f"low_rank_adam {rows} x {terms} x {columns} + {padding}"
            for n, (a, b) in enumerate(zip(*results, strict=True)):
                if wrong := difference(a, b, 1e-5 if not half or n == 3 else 1e-2):
                    log.problem(case, f"result {n}: {wrong}")
                if n < 3 and a[:, columns:].any():
                    log.problem(case, f"padding of {n} changed")
            log.finish(case, start)
