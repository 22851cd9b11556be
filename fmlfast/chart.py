"""Curves as inline SVG, without a plotting library."""

import html
import math
from collections.abc import Sequence
from itertools import accumulate

POINTS = 300  # a curve is drawn with at most this many


def line_chart(title: str, steps: Sequence[float], values: Sequence[float]) -> str:
    """An inline SVG of one curve, faint as logged and bold as a moving mean over 5% of it.

    The axis is logarithmic where the values are positive and span more than a factor of ten.
    """
    pairs = [(s, v) for s, v in zip(steps, values, strict=True) if math.isfinite(v)]
    if not pairs:
        return ""
    total = [0.0, *accumulate(value for _, value in pairs)]
    smooth = []
    for i, (step, _) in enumerate(pairs):
        reach = min(len(pairs) // 40, i, len(pairs) - 1 - i)  # symmetric to the very ends: no lag behind the curve
        smooth.append((step, (total[i + reach + 1] - total[i - reach]) / (2 * reach + 1)))
    low, high = min(v for _, v in pairs), max(v for _, v in pairs)
    log = low > 0 and high > 10 * low
    ticks = _log_ticks(low, high) if log else _ticks(low, high)
    scale = math.log10 if log else float
    bottom, top = scale(min(low, ticks[0])), scale(max(high, ticks[-1]))
    first, last = pairs[0][0], max(pairs[-1][0], pairs[0][0] + 1)

    def x(step: float) -> float:
        return 44 + 266 * (step - first) / (last - first)

    def y(value: float) -> float:
        return 140 - 112 * (scale(value) - bottom) / ((top - bottom) or 1.0)

    def path(points: list[tuple[float, float]], name: str) -> str:
        thinned = points[:: -(-len(points) // POINTS)]
        joined = " ".join(f"{x(s):.1f},{y(v):.1f}" for s, v in thinned)
        return f'<polyline class="{name}" points="{joined}"/>'

    parts = [f'<text class="title" x="44" y="14">{html.escape(title)}</text>']
    for tick in ticks:
        parts.append(f'<line class="grid" x1="44" x2="310" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text x="38" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    parts.append(f'<text x="44" y="157">{first:g}</text><text x="310" y="157" text-anchor="end">step {last:g}</text>')
    return f'<svg viewBox="0 0 320 162" role="img">{"".join(parts)}{path(pairs, "raw")}{path(smooth, "smooth")}</svg>'


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers that enclose the range."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 3))
    step = next(m * power for m in (1, 2, 5, 10) if span / (m * power) <= 5)
    start = math.floor(low / step)
    count = max(math.ceil(high / step) - start, 1)
    return [float(f"{(start + i) * step:.6g}") for i in range(count + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, or of a hundred and more over wide ranges, that enclose the range."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [float(f"1e{power}") for power in range(first, last + 1, -(-(last - first) // 5))]
