# SPDX-License-Identifier: Apache-2.0
"""Addresses beyond 2^31 elements without the memory: a small launch again as the last frames of a huge one.

Memory that is only reserved stands for the other frames, and only the blocks of the last ones run. What they leave must
be the small launch's bits: an address that wrapped round in 32 bits would be out of bounds, or miss its frame.
"""

import mmap
from collections.abc import Callable

import torch

from .execute import Finding, Kernel, Schedule

_DTYPES = {torch.float32: 4, torch.int32: 4, torch.int64: 8, torch.bool: 1, torch.bfloat16: 2}
_kept: list[mmap.mmap] = []


def reserved(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Zeros that take memory only where they are touched."""
    count = 1
    for n in shape:
        count *= n
    noreserve = 0x4000
    memory = mmap.mmap(-1, count * _DTYPES[dtype] + 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | noreserve)
    _kept.append(memory)
    return torch.frombuffer(memory, dtype=dtype, count=count).view(shape)


def release() -> None:
    _kept.clear()


def grow(
    kernel: Kernel,
    name: str,
    grid: tuple[int, int, int],
    values: dict[str, object],
    before: dict[str, torch.Tensor],
    growing: dict[str, int],
    added: int,
    blocks_per_row: int,
    scalars: dict[str, object],
    prepare: Callable[[dict[str, torch.Tensor]], None] | None = None,
    ignore: frozenset[str] = frozenset(),
) -> list[Finding]:
    """Runs the launch again with `added` rows of every tensor in `growing` (argument -> rows of it for each added one).

    `before` holds the tensors as they were before the small launch, `values` the arguments with what it left.
    """
    huge: dict[str, object] = dict(values) | scalars
    for n, factor in growing.items():
        small = before[n]
        big = reserved((small.shape[0] + added * factor, *small.shape[1:]), small.dtype)
        big[added * factor :] = small
        huge[n] = big
    for n, t in before.items():
        if n not in growing:
            huge[n] = t.clone()
    if prepare is not None:
        prepare(huge)  # type: ignore[arg-type]
    first = added * blocks_per_row
    total = grid[0] * grid[1] * grid[2]
    schedule = Schedule(0, races=False, blocks=[first + i for i in range(total)])
    result = kernel((first + total, 1, 1), list(huge.values()), list(huge), schedule)
    found = [f for f in result.findings if not f.benign]
    for n, factor in growing.items():
        if n in ignore:
            continue
        after, small = huge[n], values[n]
        assert isinstance(after, torch.Tensor) and isinstance(small, torch.Tensor)
        tail = after[added * factor :]
        same = torch.equal(tail.contiguous().view(torch.uint8), small.contiguous().view(torch.uint8))
        if not same:
            found.append(
                Finding(
                    "large: differs from the small launch",
                    name,
                    n,
                    "",
                    0,
                    "",
                    "",
                    0,
                    0,
                    0,
                    0,
                    1,
                    f"{n} {list(after.shape)}",
                    f" ({after.numel():,} elements)",
                )
            )
    return found


_SHARED = set(
    "triangles_ptr neighbors_ptr ring_start_ptr ring_ptr start_ptr neighbor_ptr queue_ptr starts_ptr counter_ptr "
    "mean_ptr".split()
)
"""Arguments without frames."""


def main() -> None:
    """Every kernel whose programs go frame by frame, at tensors of 3 to 15 thousand million elements."""
    from tools.ptx import driver

    driver.gates()
    driver.install()
    from fmlfast.kernels import antialias, interpolate, normals, photometric, rasterize, shading, sparsity, visibility

    torch.set_num_threads(1)
    driver.settings.schedules = [Schedule(0, races=False)]
    usual = driver.run_kernel
    rows, added, problems = 3, 1 << 15, 0

    def grown(
        kernel: Kernel, name: str, constants: dict, grid: tuple[int, int, int], values: list, names: list
    ) -> None:
        nonlocal problems
        before = {n: v.detach().clone() for n, v in zip(names, values, strict=True) if isinstance(v, torch.Tensor)}
        usual(kernel, name, constants, grid, values, names)
        now = dict(zip(names, values, strict=True))
        if name.startswith(("normalization", "deviation")):
            return  # without frames
        growing, count, factor = {}, added, 1
        for n, tensor in before.items():
            once = name == "photometric_bwd_kernel" and n in ("d_loss_ptr", "total_ptr")
            if n not in _SHARED and not once:
                growing[n] = tensor.shape[0]
        unit = before["reflectance_ptr"].shape[0] if name.startswith("shade") else rows  # sets of frames
        if name.startswith("shade"):
            count = added * unit // rows
        growing = {n: size // unit for n, size in growing.items() if size % unit == 0}
        blocks, scalars, prepare = grid[0] // unit * factor, {}, None
        if name == "rasterize_micro_kernel":
            scalars, blocks = {"begin": now["begin"] + added * blocks}, 0
        if name == "rasterize_tile_kernel":
            blocks = 0

            def prepare(huge: dict[str, torch.Tensor]) -> None:
                huge["queue_ptr"][:, 1] += added

        # Where nothing is read from it, the scale is the largest numbers' memory.
        ignore = frozenset({"scale_ptr"}) if constants.get("MAX_ONLY") else frozenset()
        found = grow(kernel, name, grid, now, before, growing, count, blocks, scalars, prepare, ignore)
        size = max((before[n].shape[0] + count * k) * before[n][0].numel() for n, k in growing.items())
        problems += len(found)
        print(f"{name}: {size:,} elements", *(f"\n   PROBLEM {f}" for f in found), flush=True)
        release()

    driver.run_kernel = grown
    g = torch.Generator().manual_seed(0)
    height, width, count = 300, 301, 150
    corners = (torch.rand(rows, count, 1, 3, generator=g) - 0.5) * 2 + torch.tensor([0, 0, 2.5])
    corners = corners + (torch.rand(rows, count, 3, 3, generator=g) - 0.5) * 0.5
    v, t = corners.reshape(rows, -1, 3).contiguous(), torch.arange(3 * count, dtype=torch.int32).view(-1, 3)
    k = torch.tensor([[[300.0, 0, 150], [0, 300, 150], [0, 0, 1]]]).repeat(rows, 1, 1)
    leaf = v.clone().requires_grad_()
    seen = rasterize.rasterize(leaf, t, k, height, width, False, 1e-2, "triton")
    depth = torch.where(seen.triangle_id >= 0, 1.0, 0.0)
    torch.autograd.grad([seen.barycentrics, seen.depth], [leaf], [torch.randn_like(seen.barycentrics), depth])
    fragments = rasterize.Fragments(seen.triangle_id, seen.barycentrics.detach(), seen.depth.detach())
    for channels in (1, 3, 5):
        values, weights = (
            torch.randn(rows, 3 * count, channels).requires_grad_(),
            fragments.barycentrics.clone().requires_grad_(),
        )
        out = interpolate.interpolate(
            values, t, rasterize.Fragments(seen.triangle_id, weights, fragments.depth), "triton"
        )
        torch.autograd.grad(out, [values, weights], torch.randn_like(out))
        image, leaf = torch.rand(rows, height, width, channels).requires_grad_(), v.clone().requires_grad_()
        out = antialias.antialias(image, leaf, t, k, fragments, "triton")
        torch.autograd.grad(out, [image, leaf], torch.randn_like(out))
    visibility.vertex_visibility(v, torch.randn_like(v), k, fragments.depth, "triton")
    with torch.no_grad():  # whose gradient has a first dimension of its own
        pictures = torch.rand(2, rows, height, width, 3)
        photometric.photometric_pixels(*pictures, torch.rand(rows, height, width), "charbonnier", "triton")
    rows, added, count = 4, 1 << 18, 5000
    triangles = torch.randint(0, count, (2 * count, 3), generator=g, dtype=torch.int32)
    leaf = torch.randn(rows, count, 3).requires_grad_()
    out = normals.vertex_normals(leaf, triangles, "triton")
    torch.autograd.grad(out, leaf, torch.randn_like(out))
    for sets in (2, 4):
        reflectance, sh = torch.rand(sets, count, 3).requires_grad_(), torch.randn(rows, 9, 3).requires_grad_()
        outs = shading.shade_vertices(leaf, triangles, reflectance, sh, "triton")
        torch.autograd.grad(outs, [reflectance, leaf, sh], [torch.randn_like(o) for o in outs])
        out = shading.shade_sh(reflectance, leaf, sh, "triton")
        torch.autograd.grad(out, [reflectance, leaf, sh], torch.randn_like(out))
    colours, k = torch.rand(rows, count, 3), torch.tensor([[[20.0, 0, 10], [0, 20, 10], [0, 0, 1]]]).repeat(rows, 1, 1)
    with torch.no_grad():
        photometric.photometric(
            torch.rand(rows, 3, 20, 20), leaf.detach(), k, colours, torch.rand(rows, count), "geman", "triton"
        )
    chroma, known = sparsity.chromaticity(torch.rand(rows, 2, count, 3), torch.rand(rows, 2, count), "triton")
    ends = torch.randint(0, count, (9000, 2))
    sparsity.sparsity(colours, chroma.clone(), known.clone(), ends, 80.0, 0.9, "triton")
    print(problems, "problems")


if __name__ == "__main__":
    main()
