import numpy as np
import torch

from fmlfast.mesh_io.gltf import GltfDocument
from fmlfast.mesh_io.scene import quaternions, sparse_rows
from fmlfast.rotation import rotation_from_axis_angle


def matrices(quaternion: np.ndarray) -> np.ndarray:
    """Rotates the unit vectors by q v q*."""
    axis, w = quaternion[:, None, :3], quaternion[:, None, 3:]
    unit = np.broadcast_to(np.eye(3), (len(quaternion), 3, 3))
    twice = 2 * np.cross(axis, unit)
    return (unit + w * twice + np.cross(axis, twice)).transpose(0, 2, 1)


def test_quaternions_are_the_rotations_and_do_not_jump_through_two_full_turns() -> None:
    angle = torch.linspace(0, 4 * torch.pi, 101, dtype=torch.float64)
    rotations = rotation_from_axis_angle(angle[:, None] * torch.tensor([0.6, -0.48, 0.64], dtype=torch.float64)).numpy()
    found = quaternions(rotations)
    np.testing.assert_allclose(matrices(found), rotations, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert np.abs(np.diff(found, axis=0)).max() < 0.1  # 7 degrees a step
    np.testing.assert_allclose(found[0], [0, 0, 0, 1], atol=1e-6)


def test_half_turns_about_any_axis_are_converted() -> None:
    rotations = np.stack([np.diag(row) for row in ([1.0, -1, -1], [-1.0, 1, -1], [-1.0, -1, 1])])
    np.testing.assert_allclose(np.abs(quaternions(rotations)), np.eye(3, 4), atol=1e-6)


def test_rows_are_kept_by_their_length() -> None:
    values = np.array([[0, 0, 0], [0.3, 0.4, 0], [0.3, 0.3, 0], [0, 0, -0.6]], np.float32)
    np.testing.assert_array_equal(sparse_rows(values, 0.49), [1, 3])


def test_a_name_that_is_no_unicode_is_written() -> None:
    document = GltfDocument()
    document.add("meshes", {"name": "a\udcffé"})
    assert '"name":"a?é"'.encode() in document.to_glb()
