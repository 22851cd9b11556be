"""Axis-angle vectors and back."""

import torch

from fmlfast.rotation import axis_angle_from_rotation, rotation_from_axis_angle


def directions(count: int = 200) -> torch.Tensor:
    drawn = torch.randn(count, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.cat([drawn / drawn.norm(dim=1, keepdim=True), torch.eye(3).double(), -torch.eye(3).double()])


def test_axis_angles_are_found_again_from_tiny_turns_to_nearly_half_a_turn() -> None:
    for angle in (1e-4, 1e-2, 0.5, 1.6, 3.0, 3.14):
        vectors = directions() * angle
        found = axis_angle_from_rotation(rotation_from_axis_angle(vectors))
        torch.testing.assert_close(found, vectors, rtol=1e-5, atol=1e-7)
        found = axis_angle_from_rotation(rotation_from_axis_angle(vectors.float()))
        torch.testing.assert_close(found, vectors.float(), rtol=0, atol=1e-6 if angle < 3.1 else 2e-3)


def test_turns_too_small_to_see_and_none_at_all_are_finite() -> None:
    for angle in (0.0, 1e-9, 1e-7, 1e-6):
        vectors = (directions() * angle).float()
        found = axis_angle_from_rotation(rotation_from_axis_angle(vectors))
        assert found.isfinite().all()
        torch.testing.assert_close(found, vectors, rtol=0, atol=2e-7)
    assert (axis_angle_from_rotation(torch.eye(3)) == 0).all()


def test_rotations_keep_their_leading_axes() -> None:
    vectors = directions()[:6].view(2, 3, 3)
    found = axis_angle_from_rotation(rotation_from_axis_angle(vectors))
    assert found.shape == (2, 3, 3)
    torch.testing.assert_close(found, vectors)
