"""Crops: the transform goes both ways, the pixels are where it says, the camera agrees."""

import numpy as np
import pytest

from fmlfast.data.crop import Crop, K_to_crop, assumed_K, crop_image, crop_to_source, face_crop, points_to_crop


def random_landmarks(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(100, 900, 2) + rng.uniform(5, 200) * rng.normal(size=(68, 2))


def test_the_face_is_centred_and_spans_its_share() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        landmarks = random_landmarks(rng)
        inside = points_to_crop(landmarks, face_crop(landmarks), 97)
        np.testing.assert_allclose(inside.mean(axis=0), 97 / 2, atol=1e-3)
        np.testing.assert_allclose(np.ptp(inside, axis=0).max(), 0.62 * 97, rtol=1e-5)


def test_the_transform_goes_both_ways() -> None:
    rng = np.random.default_rng(1)
    for size in (31, 256):
        landmarks = random_landmarks(rng)
        crop = face_crop(landmarks)
        inside = points_to_crop(landmarks, crop, size)
        transform = crop_to_source(crop, size)
        np.testing.assert_allclose(inside @ transform[:, :2].T + transform[:, 2], landmarks, atol=1e-3)


def test_projection_into_the_crop_agrees_with_projection_into_the_source() -> None:
    rng = np.random.default_rng(2)
    K = assumed_K(641, 480)
    crop = Crop(101.3, -20.7, 333.3)
    points = rng.normal(size=(50, 3)) * 50 + (0, 0, 700)
    source = points @ K.T
    inside = points @ K_to_crop(K, crop, 131).T.astype(np.float64)
    expected = points_to_crop(source[:, :2] / source[:, 2:], crop, 131)
    np.testing.assert_allclose(inside[:, :2] / inside[:, 2:], expected, atol=1e-3)


def mirrored(position: np.ndarray, length: int) -> np.ndarray:
    return np.abs((position + length) % (2 * length) - length)


@pytest.mark.parametrize("crop", [Crop(33.3, 21.7, 80.4), Crop(-31.5, 90.2, 120.0), Crop(100.25, 60.75, 37.0)])
@pytest.mark.parametrize("size", [45, 64])
def test_pixels_are_where_the_transform_says(crop: Crop, size: int) -> None:
    height, width = 151, 173
    y, x = np.mgrid[:height, :width] + 0.5  # a ramp whose value is the coordinate
    image = np.stack([x, y, np.full_like(x, 7)], axis=-1).astype(np.uint8)  # truncation: x - 0.5
    got = crop_image(image, crop, size)
    assert got.shape == (size, size, 3)
    assert got.dtype == np.uint8
    v, u = np.mgrid[:size, :size] + 0.5
    transform = crop_to_source(crop, size)
    expected_x = mirrored(transform[0, 0] * u + transform[0, 2], width) - 0.5
    expected_y = mirrored(transform[1, 1] * v + transform[1, 2], height) - 0.5
    assert np.abs(got[..., 0] - expected_x).max() < 1.2
    assert np.abs(got[..., 1] - expected_y).max() < 1.2
    assert (got[..., 2] == 7).all()


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match="68 finite"):
        face_crop(np.zeros((66, 2)))
    with pytest.raises(ValueError, match="68 finite"):
        face_crop(np.full((68, 2), np.nan))
    with pytest.raises(ValueError, match="coincide"):
        face_crop(np.ones((68, 2)))
    with pytest.raises(ValueError, match="outside"):
        crop_image(np.zeros((9, 9, 3), np.uint8), Crop(9.0, 0.0, 4.0), 16)
