import pytest
import torch

from fmlfast.camera import project
from fmlfast.ibug68 import LANDMARKS_66
from fmlfast.model.landmark_pose import CROP_CENTER_Y, CROP_HALF_WIDTH, align_to_front, fit_pose
from fmlfast.rotation import FRONTAL, rotation_about_view, rotation_from_axis_angle
from fmlfast.template.face_template import FaceTemplate


@pytest.fixture(scope="module")
def points() -> torch.Tensor:
    template = FaceTemplate.default(0)
    return template.landmarks(template.vertices)[list(LANDMARKS_66)].double()


def test_rotations_are_orthonormal_and_smooth_at_zero() -> None:
    w = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    w[0] = 0
    R = rotation_from_axis_angle(w)
    torch.testing.assert_close(
        R @ R.transpose(1, 2), torch.eye(3, dtype=torch.float64).expand(50, 3, 3), atol=1e-6, rtol=0
    )
    expected = torch.linalg.matrix_exp(torch.tensor([[[0, -1, 0], [1, 0, 0], [0, 0, 0]]], dtype=torch.float64) * 0.3)
    torch.testing.assert_close(rotation_from_axis_angle(torch.tensor([[0, 0, 0.3]]).double()), expected)
    zero = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rotation_from_axis_angle, (zero,), atol=1e-4)


def test_alignment_recovers_a_similarity(points: torch.Tensor) -> None:
    flat = torch.stack([points[:, 0], CROP_CENTER_Y - points[:, 1]], 1) / CROP_HALF_WIDTH
    matrix = rotation_about_view(torch.tensor([0.4, -0.2]).double())[:, :2, :2] * 45
    landmarks = flat @ matrix.transpose(1, 2) + torch.tensor([[60.0, 70.0]])
    found = align_to_front(landmarks, points)
    torch.testing.assert_close(found.matrix, matrix)
    torch.testing.assert_close(found.roll, torch.tensor([0.4, -0.2]).double())
    torch.testing.assert_close(found.to_crop(landmarks), flat.expand(2, -1, -1))


def test_pose_of_the_rigid_template_is_recovered(points: torch.Tensor) -> None:
    g = torch.Generator().manual_seed(2)
    w = (torch.rand(40, 3, generator=g).double() - 0.5) * torch.tensor([0.8, 1.4, 0.7])
    R = rotation_from_axis_angle(w) @ torch.tensor(FRONTAL).double()
    t = torch.cat([torch.randn(40, 2, generator=g) * 20, 400 + 600 * torch.rand(40, 1, generator=g)], 1).double()
    K = torch.tensor([[500.0, 0, 60], [0, 520, 66], [0, 0, 1]]).double().expand(40, 3, 3)
    uv = project(points @ R.transpose(1, 2) + t[:, None], K)
    found_R, found_t = fit_pose(uv, K, points, steps=12)
    angle = torch.acos((((found_R * R).sum((1, 2)) - 1) / 2).clamp(-1, 1)).rad2deg()
    assert angle.max() < 0.05
    assert ((found_t - t).norm(dim=1) / t[:, 2]).max() < 1e-3
