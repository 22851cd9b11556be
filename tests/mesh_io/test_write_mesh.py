import numpy as np
import pytest
import torch

from fmlfast.color import linear_to_srgb
from fmlfast.mesh_io import write_mesh
from tests.helpers.glb_reader import Glb

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
    glb = Glb(path)
    arrays = glb.arrays("mesh")
    np.testing.assert_array_equal(arrays["POSITION"], vertices * np.float32(0.001))
    np.testing.assert_array_equal(arrays["indices"], triangles)
    np.testing.assert_array_equal(arrays["COLOR_0"], colors)  # linear, as the glTF 2.0 specification requires
    np.testing.assert_allclose(arrays["TEXCOORD_0"], np.stack([uv[:, 0], 1 - uv[:, 1]], axis=1), atol=1e-6)
    np.testing.assert_allclose(arrays["NORMAL"], reference_normals(vertices, triangles), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(arrays["NORMAL"], axis=1), 1.0, atol=1e-5)
    assert {"min", "max"} <= glb.document["accessors"][0].keys()
    mesh = trimesh.load(path, force="mesh", process=False)
    np.testing.assert_array_equal(mesh.vertices.astype(np.float32), vertices * np.float32(0.001))
    np.testing.assert_array_equal(mesh.faces, triangles)


def test_trimesh_shows_the_vertex_colors_of_a_glb(tmp_path):
    vertices, triangles, colors, _ = head(8)
    write_mesh(tmp_path / "face.glb", vertices, triangles, colors)
    mesh = trimesh.load(tmp_path / "face.glb", force="mesh", process=False)
    assert mesh.visual.kind == "vertex"
    assert np.abs(mesh.visual.vertex_colors[:, :3] / 255 - colors).max() < 1 / 255  # it does not convert linear values


@pytest.mark.parametrize(("side", "bytes_each"), [(255, 2), (256, 4)])
def test_glb_indices_are_as_short_as_the_vertices_allow(tmp_path, side, bytes_each):
    x, y = np.meshgrid(np.arange(side + 1.0), np.arange(side))
    vertices = np.stack([x.ravel(), y.ravel(), 0 * x.ravel()], 1)  # 65,280 and 65,792
    corner = (np.arange(side - 1)[:, None] * (side + 1) + np.arange(side)).ravel()
    triangles = np.stack([corner, corner + 1, corner + side + 1], 1)
    write_mesh(tmp_path / "grid.glb", vertices, triangles)
    indices = Glb(tmp_path / "grid.glb").arrays("mesh")["indices"]
    np.testing.assert_array_equal(indices, triangles)
    assert indices.itemsize == bytes_each


def gradient() -> np.ndarray:
    """A texture that differs in every texel."""
    rows, columns = np.mgrid[:32, :64]
    return np.stack([rows * 8, columns * 4, rows + columns], 2).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["obj", "glb"])
def test_trimesh_reads_the_texture_and_its_places(tmp_path, suffix):
    vertices, triangles, colors, uv = head(9)
    path = tmp_path / f"face.{suffix}"
    write_mesh(path, vertices, triangles, colors, uv, gradient())
    mesh = trimesh.load(path, force="mesh", process=False, maintain_order=True)
    material = mesh.visual.material
    image = material.image if suffix == "obj" else material.baseColorTexture
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), gradient())
    np.testing.assert_allclose(mesh.visual.uv, uv, atol=1e-6)
    np.testing.assert_array_equal(mesh.faces, triangles)
    names = {"obj": ["face.mtl", "face.obj", "face.png"], "glb": ["face.glb"]}
    assert sorted(file.name for file in tmp_path.iterdir()) == names[suffix]


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
        stored = Glb(path).arrays("mesh")["COLOR_0"] * 255
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
        "vertices must be finite$": ("face.obj", (vertices * np.float64(1e300), triangles)),
        "vertices must be real numbers, not complex64": ("face.obj", (vertices * 1j, triangles)),
        "uv must be real numbers, not bool": ("face.obj", (vertices, triangles, None, uv > 0)),
        "triangles must index": ("face.ply", (vertices, triangles + 1)),
        "triangles must be integers": ("face.ply", (vertices, triangles.astype(np.float32))),
        "colors must have shape": ("face.glb", (vertices, triangles, colors[:-1])),
        "colors must be linear floats": ("face.ply", (vertices, triangles, (255 * colors).astype(np.uint8))),
        "uv must have shape": ("face.glb", (vertices, triangles, colors, uv[:, :1])),
        "texture needs uv": ("face.obj", (vertices, triangles, colors, None, gradient())),
        "texture must be uint8": ("face.obj", (vertices, triangles, colors, uv, gradient() / 255)),
    }
    for reason, (name, arguments) in cases.items():
        with pytest.raises(ValueError, match=reason):
            write_mesh(tmp_path / name, *arguments)
    assert list(tmp_path.iterdir()) == []


def as_given(kind: str, array: np.ndarray) -> np.ndarray | torch.Tensor:
    """The same numbers in another dtype or layout."""
    tensor = torch.from_numpy(array)
    return {
        "bfloat16": tensor.bfloat16(),
        "half": tensor.half(),
        "double": tensor.double(),
        "with gradients": tensor.clone().requires_grad_(),
        "transposed": tensor.T.contiguous().T,
        "sparse": tensor.to_sparse(),
        "negated lazily": torch.complex(tensor, -tensor).conj().imag,
        "big endian": array.astype(">f4"),
        "reversed": array[::-1].copy()[::-1],
        "list": array.tolist(),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    ["bfloat16", "half", "double", "with gradients", "transposed", "sparse", "negated lazily", "big endian", "reversed"]
    + ["list"],
)
@pytest.mark.parametrize("suffix", ["obj", "ply", "glb"])
def test_tensors_of_any_dtype_and_layout_are_written_alike(tmp_path, kind, suffix):
    vertices = np.array([[0, 0, 0], [8, 0, 0], [0, 4, 0], [0, 0, 2]], np.float32)  # exact in 8 bits
    triangles = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]], np.int32)
    colors, uv = vertices / 8, vertices[:, :2] / 8
    write_mesh(tmp_path / f"a.{suffix}", vertices, triangles, colors, uv)
    other = torch.from_numpy(triangles).short() if kind == "bfloat16" else triangles.astype(">i8")
    write_mesh(
        tmp_path / "b" / f"a.{suffix}", as_given(kind, vertices), other, as_given(kind, colors), as_given(kind, uv)
    )
    assert (tmp_path / "b" / f"a.{suffix}").read_bytes() == (tmp_path / f"a.{suffix}").read_bytes()


def test_a_texture_may_be_a_tensor(tmp_path):
    vertices, triangles, _, uv = head(8)
    write_mesh(tmp_path / "a.glb", vertices, triangles, uv=uv, texture=gradient())
    write_mesh(tmp_path / "b" / "a.glb", vertices, triangles, uv=uv, texture=torch.from_numpy(gradient()))
    assert (tmp_path / "b" / "a.glb").read_bytes() == (tmp_path / "a.glb").read_bytes()
