"""The viewer in a real browser: what is seen follows sliders and mouse."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from fmlfast.model.fml import FML
from tests.helpers.browser import Browser
from tests.helpers.small_model import SMALL

viser = pytest.importorskip("viser")
from fmlfast.visualization.viewer.model_view import ModelView  # noqa: E402
from fmlfast.visualization.viewer.stage import Stage  # noqa: E402

FACE = (slice(300, 420), slice(380, 520))  # of the window beside the panel
CORNER = (slice(700, 790), slice(5, 60))


@pytest.fixture
def view() -> Iterator[tuple[Stage, ModelView]]:
    torch.manual_seed(0)
    stage = Stage("test", "127.0.0.1", 0)
    shown = ModelView(stage, FML(SMALL).eval())
    stage.start(shown.scene)
    yield stage, shown
    stage.stop()


def shade(picture: np.ndarray) -> float:
    """The mean of the face, 0..255."""
    return float(picture[FACE].mean())


def skinlike(picture: np.ndarray) -> bool:
    red, _, blue = picture[FACE].reshape(-1, 3).mean(0)
    return red > blue + 15


def test_sliders_buttons_and_mouse_change_what_is_seen(view: tuple[Stage, ModelView], tmp_path: Path) -> None:
    stage, shown = view
    with Browser(stage.address, tmp_path) as browser:
        start = browser.until(skinlike)
        assert start[CORNER].min() > 200  # paper

        browser.do("fill", label="Skin, dark to light", value=0.05)
        dark = browser.until(lambda picture: shade(picture) < 0.6 * shade(start))
        assert shown.lightness.value == pytest.approx(0.05) and skinlike(dark)

        browser.do("click", text="Mean person")
        browser.until(lambda picture: abs(shade(picture) - shade(start)) < 3)

        browser.do("click", text="Jaw open")
        opened = browser.until(lambda picture: changed(picture, start, (slice(430, 560), slice(400, 490))) > 0.15)
        assert changed(opened, start, (slice(170, 260), slice(400, 490))) < 0.02  # the forehead stays
        assert float(shown.expressions.weights.max()) == pytest.approx(0.7)

        browser.do("drag", **{"from": [440, 650], "to": [640, 650]})
        turned = browser.until(lambda picture: changed(picture, opened, FACE) > 0.3)
        (client,) = stage.server.get_clients().values()
        assert abs(client.camera.position[0]) > 0.1  # metres

        browser.do("choose", label="Draw", option="clay")
        grey = browser.until(lambda picture: not skinlike(picture))
        assert changed(grey, turned, CORNER) < 0.01

        browser.do("check", label="Dark background")
        browser.until(lambda picture: picture[CORNER].max() < 80)


def changed(picture: np.ndarray, before: np.ndarray, where: tuple[slice, slice]) -> float:
    """The share of pixels that differ by more than 24 of 255."""
    return float((np.abs(picture[where].astype(int) - before[where]).max(2) > 24).mean())
