"""What the readers of scans and landmarks say of damaged files."""

import numpy as np
import pytest

from fmlfast.evaluation.scans.readers import read_landmarks, read_points


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.wrl", b"#VRML V2.0 utf8\nTextureCoordinate { point [ 0 1 ] }", "no `Coordinate"),
        ("a.wrl", b"Coordinate { point [ 1 2 3 4 ] }", "no whole number"),
        ("a.wrl", b"Coordinate { point [ 1 2 x ] }", "a.wrl"),
        ("a.wrl", b"Coordinate { point [ ] }", "finite points"),
        ("a.bs", b"\x02\0\0\0\x05\0\0\0\x01\0\0\0" + bytes(100), "cut short"),
        ("a.bs", b"\x02\0\0", "cut short"),
        ("a.ply", b"no mesh", "cannot be read as a scan"),
        ("a.obj", b"v 0 0 0\nv 1 1\n", "not all vertices read"),
        ("a.obj", b"f 1 2 3\n", "finite points"),
    ],
)
def test_damaged_scans_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_points(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "1 2 3\n4 5 6\n", r"needs 7 or 68 landmarks .* found \[2, 3\]"),
        ("a.txt", "1 2 3\n4 5\n", "no list of landmarks"),
        ("a.txt", "0\n1\n2\n3\n4\n5\n99\n", "integers from 0 to 9"),
        ("a.txt", "0\n1\n2\n3\n4\n5\n1.5\n", "integers"),
        ("a.txt", "nan 0 0\n" * 7, "found"),
        ("a.pp", "<PickedPoints>", "no list of landmarks"),
        ("a.pp", '<PickedPoints><point x="1" y="2"/></PickedPoints>', "no list of landmarks"),
        ("a.bnd", "1 2 3 4\n" * 82, "83 lines"),
    ],
)
def test_damaged_landmarks_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_landmarks(tmp_path / name, np.zeros((10, 3)))
    assert str(tmp_path / name) in str(caught.value)


def test_points_that_were_never_set_are_no_landmarks(tmp_path):
    """MeshLab lists them at the origin, with active="0"."""
    points = [f'<point x="{i}" y="{i * i}" z="1" active="{int(i != 3)}" name="{i}"/>' for i in range(8)]
    (tmp_path / "a.pp").write_text(f"<!DOCTYPE PickedPoints><PickedPoints>{''.join(points)}</PickedPoints>")
    expected = [[i, i * i, 1] for i in range(8) if i != 3]
    np.testing.assert_array_equal(read_landmarks(tmp_path / "a.pp", np.zeros((1, 3))), expected)
    (tmp_path / "b.pp").write_text(f"<PickedPoints>{''.join(points[:7])}</PickedPoints>")
    with pytest.raises(ValueError, match=r"needs 7 or 68 landmarks .* found \[6, 3\]"):
        read_landmarks(tmp_path / "b.pp", np.zeros((1, 3)))


def test_a_byte_order_mark_is_no_number(tmp_path):
    (tmp_path / "a.txt").write_text("".join(f"{i} 2 3\n" for i in range(7)), encoding="utf-8-sig")
    np.testing.assert_array_equal(read_landmarks(tmp_path / "a.txt", np.zeros((1, 3)))[:, 0], range(7))
