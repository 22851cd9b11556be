import json
import struct

import numpy as np
import pytest
import torch

from fmlfast.color import linear_to_srgb
from fmlfast.mesh_io import write_mesh

trimesh = pytest.importorskip("trimesh")


def head(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A bumpy closed ball of random size: vertices mm, triangles, linear colours, uv."""
    rng = np.random.default_rng(seed)
    ball = trimesh.creation.icosphere(subdivisions=2)
    vertices = (ball.vertices * rng.uniform(60, 120, 3) + rng.normal(0, 1, ball.vertices.shape)).astype(np.float32)
    count = len(vertices)
    return (
        vertices,
        np.asarray(ball.faces, np.int32),
        rng.random((count, 3), np.float32),
        rng.random((count, 2), np.float32),
    )


def reference_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Area-weighted normals one triangle at a time, float64."""
    normals = np.zeros(vertices.shape)
    points = vertices.astype(np.float64)
    for i, j, k in triangles:
        normals[[i, j, k]] += np.cross(points[j] - points[i], points[k] - points[i])
    return normals / np.linalg.norm(normals, axis=1, keepdims=True)


def srgb_bytes(linear: np.ndarray) -> np.ndarray:
    return np.rint(linear_to_srgb(torch.from_numpy(linear)).numpy() * 255)


def read_glb(path) -> tuple[dict, dict[str, np.ndarray]]:
    """The JSON and the arrays of a GLB, read by the letter of the glTF 2.0 specification."""
    data = path.read_bytes()
    magic, version, total = struct.unpack_from("<4sII", data)
    assert (magic, version, total) == (b"glTF", 2, len(data))
    length, kind = struct.unpack_from("<I4s", data, 12)
    assert kind == b"JSON" and length % 4 == 0
    document = json.loads(data[20 : 20 + length])
    binary_length, kind = struct.unpack_from("<I4s", data, 20 + length)
    assert kind == b"BIN\0" and binary_length % 4 == 0 and 28 + length + binary_length == len(data)
    binary = data[28 + length :]
    assert document["buffers"] == [{"byteLength": len(binary)}]
    primitive = document["meshes"][0]["primitives"][0]
    arrays = {}
    for name, index in [*primitive["attributes"].items(), ("indices", primitive["indices"])]:
        accessor = document["accessors"][index]
        view = document["bufferViews"][accessor["bufferView"]]
        assert view["byteOffset"] % 4 == 0
        kind = {5126: "<f4", 5125: "<u4"}[accessor["componentType"]]
        columns = {"SCALAR": 1, "VEC2": 2, "VEC3": 3}[accessor["type"]]
        values = np.frombuffer(binary, kind, accessor["count"] * columns, view["byteOffset"])
        assert values.nbytes == view["byteLength"]
        arrays[name] = values.reshape(-1, columns)
    return document, arrays


@pytest.mark.parametrize("suffix", ["obj", "ply"])
def test_obj_and_ply_read_back_exactly(tmp_path, suffix):
    vertices, triangles, colors, uv = head(1)
    path = tmp_path / f"face.{suffix}"
    write_mesh(path, vertices, triangles, colors, uv)
    mesh = trimesh.load(path, process=False, maintain_order=True)
    np.testing.assert_array_equal(mesh.vertices.astype(np.float32), vertices)
    np.testing.assert_array_equal(mesh.faces, triangles)
    np.testing.assert_allclose(mesh.vertex_normals, reference_normals(vertices, triangles), atol=2e-5)


@pytest.mark.parametrize("suffix", ["obj", "ply"])
def test_obj_and_ply_colors_are_srgb(tmp_path, suffix):
    vertices, triangles, colors, _ = head(2)
    path = tmp_path / f"face.{suffix}"
    write_mesh(path, vertices, triangles, colors)
    mesh = trimesh.load(path, process=False, maintain_order=True)
    stored = mesh.visual.vertex_colors[:, :3].astype(int)
    assert np.abs(stored - srgb_bytes(colors)).max() <= (0 if suffix == "ply" else 1)  # trimesh truncates OBJ colours
    if suffix == "obj":
        written = np.array([line.split()[4:] for line in path.read_text().splitlines() if line.startswith("v ")], float)
        np.testing.assert_allclose(written, linear_to_srgb(torch.from_numpy(colors)).numpy(), atol=1e-5)


def test_obj_corners_carry_uv_and_normal(tmp_path):
    vertices, triangles, _, uv = head(3)
    write_mesh(tmp_path / "face.obj", vertices, triangles, uv=uv)
    lines = [line.split() for line in (tmp_path / "face.obj").read_text().splitlines()]
    corners = np.array([[corner.split("/") for corner in line[1:]] for line in lines if line[0] == "f"], int)
    np.testing.assert_array_equal(corners, np.repeat(triangles[:, :, None] + 1, 3, axis=2))
    np.testing.assert_array_equal(np.array([line[1:] for line in lines if line[0] == "vt"], np.float32), uv)


def test_ply_carries_uv(tmp_path):
    vertices, triangles, colors, uv = head(4)
    write_mesh(tmp_path / "face.ply", vertices, triangles, colors, uv)
    stored = trimesh.load(tmp_path / "face.ply", process=False).metadata["_ply_raw"]["vertex"]["data"]
    np.testing.assert_array_equal(np.stack([stored["s"], stored["t"]], axis=1), uv)


def test_glb_is_metres_linear_and_valid(tmp_path):
    vertices, triangles, colors, uv = head(5)
    path = tmp_path / "face.glb"
    write_mesh(path, vertices, triangles, colors, uv)
    document, arrays = read_glb(path)
    np.testing.assert_array_equal(arrays["POSITION"], vertices * np.float32(0.001))
    np.testing.assert_array_equal(arrays["indices"].reshape(-1, 3), triangles)
    np.testing.assert_array_equal(arrays["COLOR_0"], colors)  # linear, as the glTF 2.0 specification requires
    np.testing.assert_allclose(arrays["TEXCOORD_0"], np.stack([uv[:, 0], 1 - uv[:, 1]], axis=1), atol=1e-6)
    np.testing.assert_allclose(arrays["NORMAL"], reference_normals(vertices, triangles), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(arrays["NORMAL"], axis=1), 1.0, atol=1e-5)
    bounds = document["accessors"][0]
    np.testing.assert_array_equal(np.array(bounds["min"], np.float32), arrays["POSITION"].min(axis=0))
    np.testing.assert_array_equal(np.array(bounds["max"], np.float32), arrays["POSITION"].max(axis=0))
    assert document["materials"][0]["pbrMetallicRoughness"]["metallicFactor"] == 0.0
    mesh = trimesh.load(path, force="mesh", process=False)
    np.testing.assert_array_equal(mesh.vertices.astype(np.float32), vertices * np.float32(0.001))
    np.testing.assert_array_equal(mesh.faces, triangles)


@pytest.mark.parametrize("suffix", ["obj", "ply", "glb"])
def test_plain_mesh_from_tensors_replaces_an_old_file(tmp_path, suffix):
    vertices, triangles, colors, _ = head(6)
    path = tmp_path / f"face.{suffix}"
    path.write_text("old")
    write_mesh(path, torch.from_numpy(vertices).requires_grad_(), torch.from_numpy(triangles).long())
    mesh = trimesh.load(path, force="mesh", process=False, maintain_order=True)
    assert mesh.vertices.shape == vertices.shape
    np.testing.assert_array_equal(mesh.faces, triangles)
    write_mesh(path, vertices, triangles, colors * 3.0 - 1.0)  # out of range is clamped, not wrapped
    if suffix == "glb":
        stored = read_glb(path)[1]["COLOR_0"] * 255
    else:
        stored = trimesh.load(path, process=False, maintain_order=True).visual.vertex_colors[:, :3]
    np.testing.assert_array_equal(stored[colors < 1 / 3], 0)
    np.testing.assert_array_equal(stored[colors > 2 / 3 + 1e-4], 255)


def test_bad_input_is_refused_and_leaves_nothing(tmp_path):
    vertices, triangles, colors, uv = head(7)
    broken = vertices.copy()
    broken[3, 1] = np.nan
    cases = {
        "end the name in one of .obj, .ply, .glb": ("face.stl", (vertices, triangles)),
        "vertices must have shape": ("face.obj", (vertices[:, :2], triangles)),
        "vertices must be finite": ("face.obj", (broken, triangles)),
        "triangles must index": ("face.ply", (vertices, triangles + 1)),
        "triangles must be integers": ("face.ply", (vertices, triangles.astype(np.float32))),
        "colors must have shape": ("face.glb", (vertices, triangles, colors[:-1])),
        "colors must be linear floats": ("face.ply", (vertices, triangles, (255 * colors).astype(np.uint8))),
        "uv must have shape": ("face.glb", (vertices, triangles, colors, uv[:, :1])),
    }
    for reason, (name, arguments) in cases.items():
        with pytest.raises(ValueError, match=reason):
            write_mesh(tmp_path / name, *arguments)
    assert list(tmp_path.iterdir()) == []
