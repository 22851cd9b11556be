"""What the curves of a run show, read from the figure's own axes."""

import io
import math

import numpy as np
import pytest

from fmlfast.visualization.curves import moving_mean, training_curves


def history(**named: list[float]) -> list[dict[str, float]]:
    """Rows of a log."""
    return [
        {"step": step, **dict(zip(named, row, strict=True))}
        for step, row in enumerate(zip(*named.values(), strict=True))
    ]


def test_a_panel_a_quantity_the_loss_first() -> None:
    values = [1.0 + 0.001 * step for step in range(1000)]
    figure = training_curves(history(frames_per_second=values, photometric=values, loss=values))
    assert [axes.get_title() for axes in figure.axes] == ["loss", "photometric", "frames per second"]
    raw, smooth = figure.axes[0].lines
    np.testing.assert_array_equal(raw.get_data(), (np.arange(1000), values))
    np.testing.assert_allclose(smooth.get_ydata(), values, rtol=1e-12)  # the mean of a line is that line, to its ends
    assert figure.axes[0].get_yscale() == "linear"


def test_four_decades_are_drawn_on_a_logarithmic_axis() -> None:
    figure = training_curves(history(loss=[math.exp(-step / 100) for step in range(1000)]))
    assert figure.axes[0].get_yscale() == "log"


def test_the_mean_smooths_and_does_not_lag() -> None:
    noise = np.random.default_rng(0).normal(5.0, 1.0, 1000)
    smooth = moving_mean(noise, 25)
    assert smooth[50:-50].std() < 0.4 * noise.std()
    np.testing.assert_allclose(smooth[500], noise[475:526].mean())
    np.testing.assert_allclose(smooth[[0, 3, -1]], [noise[0], noise[:7].mean(), noise[-1]])


@pytest.mark.parametrize("values", [[3.0], [0.0, 0.0, 0.0], [-1.0, 2.0], [math.nan, 1.0, math.inf, 2.0], [1e-9, 1e9]])
def test_odd_numbers_are_drawn_where_finite(values: list[float]) -> None:
    figure = training_curves(history(loss=values))
    for line in figure.axes[0].lines:
        assert np.isfinite(line.get_data()).all() and len(line.get_xdata()) == sum(map(math.isfinite, values))
    figure.savefig(io.BytesIO())


def test_nothing_gives_no_figure() -> None:
    assert training_curves([]) is None and training_curves([{"step": 1, "loss": math.nan}]) is None
