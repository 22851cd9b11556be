"""Colours of HDR and wide-gamut videos, against the forward formulas of the standards."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fmlfast.data.video.color import to_srgb
from fmlfast.data.video.decode import Video
from tests.helpers.videos import write_video

Floats = NDArray[np.float64]

TO_2020 = np.array([[0.627404, 0.329283, 0.043313], [0.069097, 0.919540, 0.011362], [0.016391, 0.088013, 0.895595]])
TO_P3 = np.array([[0.822462, 0.177538, 0.0], [0.033194, 0.966806, 0.0], [0.017083, 0.072397, 0.910520]])
LUMA = np.array([0.2627, 0.6780, 0.0593])
COLORS = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200], [120, 90, 70], [190, 150, 130], [60, 40, 30]])


def linear(srgb: Floats) -> Floats:
    code = srgb / 255
    return np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)


def srgb_curve(light: Floats) -> Floats:
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055)


def hlg(light: Floats) -> Floats:
    """Inverse OOTF, then OETF (ITU-R BT.2100); diffuse white has 203 of 1000 cd/m^2."""
    display = 0.203 * light
    scene = display * (display @ LUMA)[:, None] ** (1 / 1.2 - 1)
    high = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), high)


def pq(light: Floats) -> Floats:
    """Inverse EOTF (SMPTE ST 2084)."""
    y = (203 * light / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375


SPACES = {
    "HLG": (lambda light: hlg(light @ TO_2020.T), 18, 9),
    "PQ": (lambda light: pq(light @ TO_2020.T), 16, 9),
    "BT.2020": (lambda light: srgb_curve(light @ TO_2020.T), 14, 9),
    "Display P3": (lambda light: srgb_curve(light @ TO_P3.T), 1, 12),
}


def encoded(name: str, light: Floats) -> NDArray[np.uint8]:
    return (255 * SPACES[name][0](light)).round().astype(np.uint8)


@pytest.mark.parametrize("name", SPACES)
def test_colors_come_out_as_srgb(name: str) -> None:
    codes = encoded(name, linear(COLORS.astype(float)))
    found = to_srgb(codes[None], *SPACES[name][1:])[0].astype(int)
    assert np.abs(found - COLORS).max() <= 8, found.tolist()  # codes of 8 bits are as coarse in shadows
    assert np.abs(codes.astype(int) - COLORS).max() > 12


@pytest.mark.parametrize("name", ["HLG", "PQ"])
def test_highlights_are_compressed_and_diffuse_white_is_white(name: str) -> None:
    levels = np.array([0.5, 0.7, 1.0, 1.5, 2.5, 4.5])[:, None] * np.ones(3)
    found = to_srgb(encoded(name, levels)[None], *SPACES[name][1:])[0].astype(int)
    assert np.ptp(found, axis=1).max() <= 2  # grey stays grey
    brightness = found.mean(1)
    assert (np.diff(brightness) >= 0).all() and 240 <= brightness[2] <= 250 < brightness[-1] <= 255
    assert np.abs(brightness[:2] - 255 * srgb_curve(levels[:2, 0])).max() <= 3  # faces keep their brightness


def test_white_of_a_wide_gamut_stays_white() -> None:
    for _, transfer, primaries in (SPACES["BT.2020"], SPACES["Display P3"]):
        found = to_srgb(np.array([[[255, 255, 255], [0, 0, 0], [250, 250, 250]]], np.uint8), transfer, primaries)
        assert np.abs(found[0].astype(int) - [[255], [0], [250]]).max() <= 1


def test_srgb_stays_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    for transfer, primaries in ((1, 1), (2, 2), (13, 1), (6, 6)):
        assert to_srgb(image, transfer, primaries) is image


@pytest.mark.parametrize("name", SPACES)
def test_files_of_10_bit_are_shown_by_their_tags(tmp_path: Path, name: str) -> None:
    patches = encoded(name, linear(COLORS.astype(float))).repeat(16, 0)[None].repeat(48, 0)
    _, transfer, primaries = SPACES[name]
    path = write_video(tmp_path / "v.mkv", [patches], tags=(primaries, transfer, 9 if primaries == 9 else 1))
    found = next(Video(path).frames()).image()[24, 8::16].astype(int)
    assert np.abs(found - COLORS).max() <= 10, found.tolist()
