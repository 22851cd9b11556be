"""docs/static.md: a training step in bytes and instructions, read off the machine code without running it."""

from collections.abc import Mapping, Sequence

from benchmarks.compile.instructions import WIDTHS

Row = Mapping[str, str]

BANDWIDTH = 3.0e12
"""Bytes a second of an H100's memory, copying."""
CLOCK = 1.755e9
SLOTS = 132 * 4 * CLOCK
"""Instructions of a warp that an H100's 132 multiprocessors start a second, one a scheduler and clock."""
L1 = 132 * 128 * CLOCK
"""Bytes a second between an H100's registers and L1 caches: 32 lanes of four bytes a multiprocessor and clock."""
STAGES = ("geometry", "shading", "visibility", "photometric", "regularisers")
STAGES = (*STAGES, *(f"{stage}, backward" for stage in reversed(STAGES)), "optimiser")
FAR = 3.0
"""Issued bytes above so many times the floor are pointed out."""

WHY = {
    "deform_fwd_kernel": "all threads load the same coefficients and poses. First to try: two vertices a thread",
    "linear_decode_fwd_kernel": "all threads load the same codes, four columns each",
    "shade_vertices_fwd_kernel": "gathers two corners of each triangle around a vertex. First to try: vertices in "
    "Morton order, then positions padded to four floats, one load instead of three",
    "area_vectors_bwd_kernel": "gathers positions and gradients of two corners of each triangle around a vertex. "
    "First to try: vertices in Morton order, then position and gradient in one row of eight floats",
    "rasterize_micro_kernel": "gathers projected corners, which six triangles share, and tests four pixels with a "
    "division each. First to try: one warp a program, 54 µs of slots with 179 registers",
    "rasterize_tile_kernel": "gathers corners and finds the window anew for each tile, in sixteen lanes at once. First "
    "to try: the window in the queue",
    "rasterize_resolve_kernel": "gathers the corners of a pixel's triangle, which its neighbours often share",
    "sparsity_fwd_kernel": "gathers six numbers of every neighbour. First to try: all six in one row of memory",
    "linear_decode_bwd_kernel": "each row of the basis loads the upstream gradient anew, and 32 frames take two "
    "passes. First to try: more rows of the basis a program",
}
"""Where issued bytes far above the floor come from, and what to try first on a GPU."""
INTRO = """# A training step, counted without a GPU

**Static: read off the machine code for sm_90, not measured.** Made by `python -m benchmarks.compile`; the counts of
all kernels and targets are in [compile_report.csv](../benchmarks/results/compile_report.csv). Sizes are those of the
preset "paper": 8 subjects of 4 frames, 55,525 vertices, 110,368 triangles, 240x240, 500 reflectance dimensions. The
network, library products, copies and fills are not in it.

- **Floor**: bytes that have to come from or go to memory, each once, at 3.0 TB/s, an H100's copy bandwidth.
- **Issued**: bytes that loads and stores of all threads ask for, masked lanes included. Caches serve what is
  beyond the floor. An L1 cache passes on 128 bytes a clock and multiprocessor at best, less when the lanes of a
  warp gather from many lines.
- **Slots**: instructions of warps, loops passed as often as the sizes say, at 132 multiprocessors x 4 schedulers x
  1.755 GHz. Both sides of a branch count; subroutines for rare operands do not.
- **Static**: the largest of the three times. Latency, cache misses and atomic operations are not in it.

| stage | kernel | floor, MB | µs | issued, MB | of the floor | L1, µs | slots, µs | static, µs | by |
|---|---|---:|---:|---:|---:|---:|---:|---:|---|"""


def markdown(rows: Sequence[Row]) -> str:
    """The page, from the lines of compile_report.csv."""
    step = sorted((row for row in rows if row["stage"]), key=lambda row: STAGES.index(row["stage"]))
    lines = [INTRO]
    totals = [0.0, 0.0]
    far: list[tuple[float, str]] = []
    for row in step:
        floor, issued, times = _times(row)
        by = max(times, key=lambda name: times[name])
        name = row["kernel"]
        totals[0] += times["memory"]
        totals[1] += times[by]
        lines.append(
            f"| {row['stage']} | `{name}` | {floor / 1e6:,.1f} | {times['memory']:,.1f} | {issued / 1e6:,.0f} "
            f"| {issued / floor:.1f} | {times['L1']:,.1f} | {times['slots']:,.1f} | {times[by]:,.1f} | {by} |"
        )
        if issued > FAR * floor:
            far.append((times[by] - times["memory"], name))
    lines += [f"| all | | | {totals[0]:,.0f} | | | | | {totals[1]:,.0f} | |", ""]
    lines += [
        f"## Issued bytes above {FAR:.0f} times the floor",
        "",
        "By how far the static time lies above the floor:",
        "",
    ]
    lines += [f"- `{name}`, {above:,.0f} µs: {WHY[name]}." for above, name in sorted(far, reverse=True)]
    widths = {bits: sum(int(row[f"loads_{bits}"]) for row in step) for bits in WIDTHS}
    loads = ", ".join(f"{n} of {bits} bits" for bits, n in widths.items() if n)
    wide = ", ".join(sorted({f"`{row['kernel']}`" for row in step if int(row["loads_128"])}))
    lines += [
        "",
        "## Widths",
        "",
        f"Load instructions of these kernels: {loads}. Those of 128 bits are in {wide}.",
        "Vectors of three floats are loaded by component, 32 bits a lane and twelve bytes apart: the first touches",
        "the cache lines of all three, and the other two find them in L1.",
    ]
    return "\n".join(lines) + "\n"


def _times(row: Row) -> tuple[float, float, dict[str, float]]:
    """Floor and issued bytes, and microseconds by what takes them."""
    count = float(row["elements"])
    floor, issued = count * float(row["bytes_per_element"]), count * float(row["issued_bytes_per_element"])
    slots = count * float(row["slots_per_element"])
    return floor, issued, {"memory": floor / BANDWIDTH * 1e6, "L1": issued / L1 * 1e6, "slots": slots / SLOTS * 1e6}
