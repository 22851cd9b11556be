"""OBJ files as other programs write them."""

from pathlib import Path

import numpy as np
import pytest

from fmlfast.evaluation.scans.readers import read_points
from fmlfast.mesh_io import read_obj

SQUARE = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nf 1 2 3 4\n"


@pytest.mark.parametrize(
    "text",
    [
        SQUARE.replace("v ", "v\t").replace("f ", "f\t"),
        "".join(f"  {line}\n" for line in SQUARE.splitlines()),
        SQUARE.replace("\n", "\r\n"),
        "\ufeff" + SQUARE,
        SQUARE.replace("f 1 2 3 4", "f 1 2 \\\n3 \\\r\n4"),
        SQUARE.replace("v 1 0 0", "v 1 \\\n 0 0"),
        SQUARE.replace("f 1 2 3 4\n", "f 1 2 3 4\\"),
        SQUARE.replace("v 1 0 0", "v 1 0 0 # a corner \\"),
    ],
)
def test_white_space_marks_and_continued_lines_change_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.obj"
    path.write_bytes(text.encode())
    mesh = read_obj(path)
    np.testing.assert_array_equal(mesh.vertices, [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    np.testing.assert_array_equal(mesh.triangles, [[0, 1, 2], [0, 2, 3]])
    np.testing.assert_array_equal(read_points(path), mesh.vertices)


def test_an_error_behind_continued_lines_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.obj").write_text("v 0 0 0\nf 1 \\\n 2 \\\n x\n")
    with pytest.raises(ValueError, match=r"a\.obj, line 4: "):
        read_obj(tmp_path / "a.obj")


def test_alpha_of_vertices_and_one_texture_coordinate_are_understood(tmp_path: Path) -> None:
    rows = [f"v {k} {k * k} 0 .{k + 1} .2 .3 .5\nvt .{k + 4}\n" for k in range(3)]
    (tmp_path / "a.obj").write_text("".join(rows) + "f 1/1 2/2 3/3\n")
    mesh = read_obj(tmp_path / "a.obj")
    assert mesh.colors is not None
    np.testing.assert_allclose(mesh.colors, [[0.1, 0.2, 0.3], [0.2, 0.2, 0.3], [0.3, 0.2, 0.3]])
    np.testing.assert_allclose(mesh.uv, [[0.4, 0], [0.5, 0], [0.6, 0]])
