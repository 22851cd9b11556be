# SPDX-License-Identifier: Apache-2.0
"""The emulator against kernels of known results, and against faults planted in them; runs with its plugin."""
# pyright: reportCallIssue=false, reportIndexIssue=false, reportArgumentType=false

import re
from collections.abc import Callable, Iterator

import pytest
import torch

from tools.ptx import driver, sample_kernels
from tools.ptx.decode import decode
from tools.ptx.driver import settings
from tools.ptx.instruction import Registers, Statement


def found() -> set[str]:
    """Kinds of findings up to now, which are forgotten."""
    kinds = {f.type for f in driver.findings}
    driver.clear()
    return kinds


@pytest.fixture
def without_barrier() -> Iterator[Callable[[int], None]]:
    """Takes one of the barriers out of each kernel."""

    def choose(which: int) -> None:
        def change(name: str, ptx: str) -> str:
            place = list(re.finditer(r"bar\.sync\s+0;", ptx))[which]
            return ptx[: place.start()] + ptx[place.end() :]

        settings.transform = change

    yield choose
    settings.transform = None


def test_sums_over_threads() -> None:
    for block, warps in ((32, 1), (32, 4), (128, 4), (1024, 8)):
        values, sums = torch.randint(-1000, 1000, (4, block), dtype=torch.int32), torch.empty(4, dtype=torch.int32)
        sample_kernels.sum_kernel[(4,)](values, sums, 4 * block, BLOCK=block, num_warps=warps)
        assert torch.equal(sums.long(), values.sum(1)) and not found()
        values, sums = torch.randint(-1000, 1000, (block,)), torch.empty(block, dtype=torch.int64)
        sample_kernels.cumsum_kernel[(1,)](values, sums, BLOCK=block, num_warps=warps)
        assert torch.equal(sums, values.cumsum(0)) and not found()


def test_masks_atomics_and_loops() -> None:
    x, y, out = torch.randn(1000), torch.randn(1000), torch.empty(1000)
    sample_kernels.add_kernel[(8,)](x, y, out, 1000, BLOCK=128)
    assert torch.equal(out, x + y)
    values, counts = torch.randint(0, 10, (1000,), dtype=torch.int32), torch.zeros(10, dtype=torch.int64)
    sample_kernels.histogram_kernel[(8,)](values, counts, 1000, BLOCK=128)
    assert torch.equal(counts, torch.bincount(values, minlength=10))
    numbers, steps = torch.arange(1, 257, dtype=torch.int32), torch.empty(256, dtype=torch.int32)
    sample_kernels.collatz_kernel[(1,)](numbers, steps, BLOCK=256)
    assert steps[:7].tolist() == [0, 1, 7, 2, 5, 8, 16] and int(steps[26]) == 111 and not found()


@pytest.mark.parametrize("warps", [1, 4])
def test_the_order_of_places_in_a_queue_is_seen_to_be_open(warps: int) -> None:
    values = torch.randint(0, 10, (1000,), dtype=torch.int32)
    counter, places = torch.zeros(1, dtype=torch.int64), torch.full((1000,), -1, dtype=torch.int32)
    sample_kernels.reserve_kernel[(8,)](values, counter, places, 1000, BLOCK=128, num_warps=warps)
    reserved = places[places >= 0].sort().values
    assert torch.equal(reserved, (values > 5).nonzero().view(-1).int()) and int(counter) == len(reserved)
    assert found() == {"depends on the schedule"}


def test_layouts() -> None:
    table, out = torch.randn(37, 50), torch.empty(37)
    sample_kernels.rows_kernel[(3,)](table, out, 37, 50, ROWS=16, COLUMNS=64)
    assert torch.equal(out, table.amax(1)) and found() <= {"shared race of equal values"}
    for dtype in (torch.float32, torch.bfloat16, torch.int64):
        table = (torch.randn(64, 64) * 100).to(dtype)
        out = torch.empty_like(table)
        sample_kernels.transpose_kernel[(1,)](table, out, BLOCK=64)
        assert torch.equal(out, table.T) and not found()


def test_functions() -> None:
    v, out = torch.randn(256) * 3, torch.empty(8, 256)
    sample_kernels.math_kernel[(1,)](v, out, BLOCK=256)
    size = v.abs()
    exact = [v.exp(), (size + 0.1).log(), size.sqrt(), 1 / v, v / (v + 1), v.floor(), v.clamp(max=0.5), size.rsqrt()]
    expected = torch.stack(exact)
    assert bool(((out - expected).abs() <= 2e-6 * expected.abs().clamp(min=1)).all()) and not found()


def test_conversions_and_whole_numbers() -> None:
    inf, nan = float("inf"), float("nan")
    v = torch.tensor([0.0, -0.0, 1.5, -1.5, 2**31, -(2**31), 1e20, -1e20, inf, -inf, nan, 1e-40] + [3.7] * 20)
    whole = torch.empty(2, 32, dtype=torch.int32)
    sample_kernels.cast_kernel[(1,)](v, whole, BLOCK=32, num_warps=1)
    most, least = 2**31 - 1, -(2**31)
    assert whole[0, :12].tolist() == [0, 0, 1, -1, most, least, most, least, most, least, 0, 0]
    assert torch.equal(whole[1][v == v], v.bfloat16().float().view(torch.int32)[v == v])
    assert int(whole[1, 10]) == 0x7FFF0000 and found() == {"conversion out of range"}
    a, b = torch.randint(-10000, 10000, (256,), dtype=torch.int32), torch.randint(1, 500, (256,), dtype=torch.int32)
    b = b * (torch.randint(0, 2, (256,), dtype=torch.int32) * 2 - 1)
    out = torch.empty(3, 256, dtype=torch.int32)
    sample_kernels.whole_kernel[(1,)](a, b, out, BLOCK=256)
    quotient = torch.div(a.long(), b.long(), rounding_mode="trunc")
    assert torch.equal(out.long(), torch.stack([quotient, a - quotient * b, (a.long() * b) >> 3])) and not found()


def test_accesses_out_of_bounds_are_found() -> None:
    x, out = torch.randn(1000), torch.zeros(1000)
    sample_kernels.beyond_kernel[(8,)](x, out, 1000, BLOCK=128)
    assert found() == {"out of bounds"}
    sample_kernels.before_kernel[(1,)](x[8:], out, BLOCK=128)  # within the storage, but not the view
    assert found() == {"out of bounds"}


def test_memory_that_nobody_wrote_is_found() -> None:
    x, y, out = torch.empty(1000), torch.randn(1000), torch.empty(1000)
    sample_kernels.add_kernel[(8,)](x, y, out, 1000, BLOCK=128)
    assert found() == {"uninitialised read"}


def test_races_in_global_memory_are_found() -> None:
    sample_kernels.collide_kernel[(2,)](torch.zeros(128), BLOCK=128)
    assert found() == {"depends on the schedule", "lanes write different values", "race write-write"}
    sample_kernels.neighbour_kernel[(4,)](torch.zeros(512), BLOCK=128)
    assert found() == {"depends on the schedule", "race read-write"}
    sample_kernels.in_place_kernel[(1,)](torch.zeros(32), BLOCK=32, num_warps=4)
    assert found() - {"depends on the schedule"} == {"race read-write"}


def test_missing_barriers_are_found(without_barrier: Callable[[int], None]) -> None:
    values, sums = torch.randint(-1000, 1000, (4, 128), dtype=torch.int32), torch.empty(4, dtype=torch.int32)
    for which in (0, 1):
        without_barrier(which)
        sample_kernels.sum_kernel[(4,)](values, sums, 512, BLOCK=128, num_warps=4)
        assert "shared race" in found()
    without_barrier(0)
    table, out = torch.randn(64, 64), torch.empty(64, 64)
    sample_kernels.transpose_kernel[(1,)](table, out, BLOCK=64)
    assert "shared race" in found()


@pytest.mark.parametrize(
    "text", ["add.f64 %fd1, %fd2, %fd3", "wgmma.fence.sync.aligned", "mov.b32 %r1, nothing", "bar.sync 1"]
)
def test_unknown_instructions_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="line 7"):
        decode(Statement(text, Registers(), {}, 7, ""))
