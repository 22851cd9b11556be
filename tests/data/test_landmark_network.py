"""The landmark network: its alignment, and that its corrections follow the picture."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fmlfast.data.landmark_assets import FEATURES, landmark_assets, landmarks_version
from fmlfast.data.landmark_network import LandmarkNetwork, align_points
from fmlfast.data.mediapipe478 import MIRROR_POINTS, NUM_POINTS, TO_IBUG68
from fmlfast.data.meta import check_landmarks, write_meta
from fmlfast.data.shards import list_clips, read_clip
from fmlfast.ibug68 import MIRROR

Scene = tuple[Tensor, Tensor]


@pytest.fixture(scope="module")
def network() -> LandmarkNetwork:
    return LandmarkNetwork.load()


@pytest.fixture(scope="module")
def scene(detected_folder: Path) -> Scene:
    """Faces [2, 3, 64, 64] and their points [2, 478, 2]."""
    clips = [read_clip(ref) for ref in list_clips(detected_folder, "val")]
    images = torch.from_numpy(np.stack([clip.images[1] for clip in clips])).permute(0, 3, 1, 2).float() / 255
    return images, torch.from_numpy(np.stack([clip.detection.points[1] for clip in clips if clip.detection]))


def relative(found: Tensor, expected: Tensor, points: Tensor) -> float:
    """The largest distance, as a share of the outer-eye distance."""
    eyes = (points[:, 33] - points[:, 263]).norm(dim=1)
    return float(((found - expected).norm(dim=2) / eyes[:, None]).max())


def test_alignment_recovers_a_known_similarity(network: LandmarkNetwork) -> None:
    scale, angle = torch.tensor([3.0, 70.0, 0.2]), torch.tensor([0.3, -2.5, math.pi])
    rotation = torch.stack([torch.stack([angle.cos(), -angle.sin()], 1), torch.stack([angle.sin(), angle.cos()], 1)], 1)
    truth, offset = scale[:, None, None] * rotation, torch.tensor([[10.0, -4], [500, 300], [0, 0]])
    points = network.canonical @ truth.mT + offset[:, None]
    points[:, -10:] += 5.0 * scale[:, None, None]  # irises do not count
    found = align_points(network.canonical, points)
    torch.testing.assert_close(found[0], truth, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[1], offset, atol=2e-3, rtol=1e-4)


def test_alignment_is_least_squares(network: LandmarkNetwork) -> None:
    generator = torch.Generator().manual_seed(1)
    points = (40 * network.canonical + 4 * torch.randn(1, NUM_POINTS, 2, generator=generator)).double()
    canonical = network.canonical.double()
    matrix, offset = align_points(canonical, points)
    x, y = canonical[:-10].T
    rows = torch.cat([torch.stack([x, -y, x * 0 + 1, x * 0], 1), torch.stack([y, x, x * 0, x * 0 + 1], 1)])
    expected = torch.linalg.lstsq(rows, points[0, :-10].T.flatten()[:, None]).solution[:, 0]
    found = torch.stack([matrix[0, 0, 0], matrix[0, 1, 0], *offset[0]])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(matrix[0, 0, 0], matrix[0, 1, 1])
    torch.testing.assert_close(matrix[0, 0, 1], -matrix[0, 1, 0])


def test_the_shipped_file_fits(network: LandmarkNetwork) -> None:
    assert not network.training and not any(parameter.requires_grad for parameter in network.parameters())
    assert all(tensor.isfinite().all() for tensor in network.state_dict().values())
    expected = torch.from_numpy(TO_IBUG68).float()
    torch.testing.assert_close(network.reduce, expected, atol=1e-3, rtol=0)
    assert network.canonical[33, 0] < network.canonical[263, 0] and network.canonical[10, 1] < network.canonical[152, 1]
    assert network.canonical.abs().max() < 1
    known = landmark_assets()
    assert (known["scores.variance"] > 0).all() and (known["scores.gain"] >= 0).all() and known["scores.gain"].any()


def test_the_corrected_points_lie_about_where_they_were(network: LandmarkNetwork, scene: Scene) -> None:
    images, points = scene
    surface, spread, features = network.correct(images, points)
    assert features.shape == (2, 2, FEATURES) and features.isfinite().all()
    assert surface.shape == (2, 546, 2) and spread.shape == (2, 546) and (spread > 0).all()
    everything = torch.cat([points, torch.from_numpy(TO_IBUG68).float() @ points], 1)
    eyes = (points[:, 33] - points[:, 263]).norm(dim=1)[:, None]
    assert ((surface - everything).norm(dim=2) / eyes).mean() < 0.1
    assert 0.002 < (spread / eyes).mean() < 0.1


def test_the_picture_matters(network: LandmarkNetwork, scene: Scene) -> None:
    images, points = scene
    surface = network.correct(images, points)[0]
    assert relative(network.correct(images.flip(3), points)[0], surface, points) > 0.01
    assert relative(network.correct(images, points + 3)[0] - 3, surface, points) > 0.01


def test_corrections_move_with_the_picture(network: LandmarkNetwork, scene: Scene) -> None:
    images, points = scene
    surface, spread, _ = network.correct(images, points)
    wide = F.pad(images, (30, 11, 7, 20), mode="replicate")
    moved, same, _ = network.correct(wide, points + torch.tensor([30.0, 7]))
    assert relative(moved - torch.tensor([30.0, 7]), surface, points) < 2e-3
    torch.testing.assert_close(same, spread, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("size", [128, 160, 256, 511])
def test_corrections_scale_with_the_picture(network: LandmarkNetwork, scene: Scene, size: int) -> None:
    images, points = scene
    surface, spread, _ = network.correct(images, points)
    factor = size / 64
    large = F.interpolate(images, size=(size, size), mode="bilinear")
    found, wider, _ = network.correct(large, points * factor)
    assert relative(found / factor, surface, points) < 0.02
    assert float(((found / factor - surface).norm(dim=2) / spread).mean()) < 0.6  # of what the network doubts
    torch.testing.assert_close(wider / factor, spread, rtol=0.2, atol=0)


def test_a_mirrored_picture_gives_mirrored_points_and_the_other_features_first(
    network: LandmarkNetwork, scene: Scene
) -> None:
    images, points = scene
    surface, spread, features = network.correct(images, points)
    axis, shift = torch.tensor([-1.0, 1]), torch.tensor([64.0, 0])
    turned = network.correct(images.flip(3), points[:, list(MIRROR_POINTS)] * axis + shift)
    table = [*MIRROR_POINTS, *(NUM_POINTS + place for place in MIRROR)]
    assert relative(turned[0][:, table] * axis + shift, surface, points) < 0.01
    torch.testing.assert_close(turned[1][:, table], spread, rtol=0.05, atol=0)
    size = features.norm(dim=2).mean()
    assert (turned[2].flip(1) - features).norm(dim=2).max() < 0.1 * size
    assert (features[:, 0] - features[:, 1]).norm(dim=1).min() > 0.1 * size


def test_clips_of_another_landmark_network_are_refused(tmp_path: Path) -> None:
    for known in ({}, {"landmarks": landmarks_version()}):
        write_meta(tmp_path, known)
        check_landmarks(tmp_path)
    write_meta(tmp_path, {"landmarks": "0123456789abcdef"})
    with pytest.raises(ValueError, match="was made with landmark network 0123456789abcdef, this version has"):
        check_landmarks(tmp_path)


def test_a_frame_does_not_depend_on_its_batch(network: LandmarkNetwork, scene: Scene) -> None:
    images, points = scene
    together = network.correct(images, points)
    for frame in range(2):
        alone = network.correct(images[frame : frame + 1], points[frame : frame + 1])
        torch.testing.assert_close(alone[0][0], together[0][frame], atol=1e-3, rtol=0)
        torch.testing.assert_close(alone[1][0], together[1][frame], atol=1e-3, rtol=1e-3)


def test_the_correction_is_the_second_stage(network: LandmarkNetwork) -> None:
    generator = torch.Generator().manual_seed(2)
    crops = torch.rand(2, 3, 128, 128, generator=generator)
    points = network.canonical + 0.02 * torch.randn(2, NUM_POINTS, 2, generator=generator)
    first, second, features = network.stages(crops, points)
    found = network(crops, points)
    torch.testing.assert_close(found[0], second[0])
    torch.testing.assert_close(found[1], second[1])
    assert (first[0] - second[0]).abs().max() > 1e-4
    assert features.shape == (2, FEATURES) and not torch.equal(features[0], features[1])
