"""A user's own head: a folder of OBJ files and landmarks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fmlfast.color import linear_to_srgb
from fmlfast.data.frames import Frames
from fmlfast.losses import LossWeights, objective
from fmlfast.mesh_io import read_obj
from fmlfast.model.fml import FML
from fmlfast.reconstruction.refinement import refine
from fmlfast.template.face_template import FaceTemplate
from tests.helpers.small_model import SMALL

EXPRESSIONS = ("jawOpen", "mouthSmileLeft", "eyeBlinkRight")
NODES = 80
COUNT = len(FaceTemplate.default(0).vertices)


def polygons(triangles: list[list[int]]) -> list[list[int]]:
    """Joins consecutive triangles that are a fan into quads; fanning the quads gives back the triangles in order."""
    faces: list[list[int]] = []
    for triangle in triangles:
        if faces and len(faces[-1]) == 3 and faces[-1][0] == triangle[0] and faces[-1][2] == triangle[1]:
            faces[-1].append(triangle[2])
        else:
            faces.append(list(triangle))
    return faces


def write_obj(path: Path, vertices: np.ndarray, faces: list[list[int]], colors: np.ndarray | None = None) -> None:
    rows = vertices if colors is None else np.concatenate([vertices, colors], 1)
    lines = ["# a comment", "o head"] + ["v " + " ".join(f"{x:.6f}" for x in row) for row in rows.tolist()]
    lines += [f"vt {0.001 * k:.4f} {1 - 0.001 * k:.4f}" for k in range(len(vertices))]
    lines += ["f " + " ".join(f"{v + 1}/{v + 1}" for v in face) for face in faces]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def source() -> FaceTemplate:
    return FaceTemplate.default(0)


@pytest.fixture
def folder(tmp_path: Path, source: FaceTemplate) -> Path:
    """The shipped template written out in centimetres, away from the origin, as quads where it can be."""
    path = tmp_path / "my_head"
    path.mkdir()
    faces = polygons(source.triangles.tolist())
    assert sum(len(face) == 4 for face in faces) > 800
    vertices = source.vertices.numpy() / 10.0 + [1.0, 160.0, -3.0]
    write_obj(path / "neutral.obj", vertices, faces, linear_to_srgb(source.colors).numpy())
    for name in EXPRESSIONS:
        deltas = source.expressions[source.expression_names.index(name)].numpy() / 10.0
        write_obj(path / f"{name}.obj", vertices + deltas, faces)
    rows = zip(source.landmark_triangles.tolist(), source.landmark_barycentrics.tolist(), strict=True)
    lines = [f"{triangle} {' '.join(f'{b:.6f}' for b in weights)}" for triangle, weights in rows]
    (path / "landmarks.txt").write_text("# iBUG 68\n" + "\n".join(lines) + "\n")
    return path


def test_a_graph_of_few_nodes_has_fewer_smooth_fields(folder: Path, frames: Frames) -> None:
    template = FaceTemplate.from_folder(folder, unit="cm", num_nodes=20)
    model = FML(replace(SMALL, smooth_basis=False, complement_rank=0), template).eval()
    codes = model.encode(frames)
    assert codes.identity.shape == (2, SMALL.identity_dim + 60)
    assert refine(model, frames, codes, 1).identity.shape == codes.identity.shape


def test_round_trip(folder: Path, source: FaceTemplate) -> None:
    template = FaceTemplate.from_folder(folder, unit="cm", num_nodes=NODES)
    assert template.name == "my_head" and template.level == 0
    assert torch.equal(template.triangles, source.triangles), "polygons become fans, in order"
    assert torch.allclose(template.vertices, source.vertices, atol=1e-3), "mm, centred on the face"
    assert torch.allclose(template.colors, source.colors, atol=1e-5)
    assert torch.allclose(template.uv[7], torch.tensor([0.007, 0.993]))
    assert template.expression_names == tuple(sorted(EXPRESSIONS))
    for k, name in enumerate(template.expression_names):
        expected = source.expressions[source.expression_names.index(name)]
        assert torch.allclose(template.expressions[k], expected, atol=1e-3)
    assert torch.allclose(template.landmarks(template.vertices), source.landmarks(source.vertices), atol=1e-2)
    assert len(template.node_vertices) == NODES and template.complement_basis().shape == (3 * NODES, 3)
    assert torch.allclose(template.skin_weights.sum(1), torch.ones(len(template.vertices)), atol=1e-5)
    assert template.fingerprint != source.fingerprint
    again = FaceTemplate.from_folder(folder, unit="cm", num_nodes=NODES)
    assert again.fingerprint == template.fingerprint and torch.equal(again.skin_weights, template.skin_weights)


def test_guessed_masks_resemble_the_true_ones(folder: Path, source: FaceTemplate) -> None:
    guessed = FaceTemplate.from_folder(folder, unit="cm", num_nodes=NODES).regions
    assert set(guessed) == set(source.regions)
    assert torch.equal(guessed["eyes"], source.regions["eyes"])
    assert torch.equal(guessed["lashes"], source.regions["lashes"])
    assert not guessed["teeth"].any() and not guessed["tongue"].any(), "unknown: inside of the mouth"
    inner = torch.stack([source.regions[name] for name in ("mouth_bag", "teeth", "tongue")]).amax(0)
    assert (guessed["mouth_bag"] <= inner).all() and guessed["mouth_bag"].sum() > 600
    for name, least in (("face", 0.8), ("neck", 0.9), ("lips", 0.6), ("ears", 0.5), ("brows", 0.9)):
        a, b = guessed[name], source.regions[name]
        overlap = torch.minimum(a, b).sum() / torch.maximum(a, b).sum()
        assert overlap > least, (name, float(overlap))


def test_levels_and_metres(folder: Path) -> None:
    base = FaceTemplate.from_folder(folder, unit="cm", num_nodes=NODES)
    transform(folder, 0.01 * np.eye(3))
    template = FaceTemplate.from_folder(folder, unit="m", num_nodes=NODES, level=1)
    assert template.level == 1 and len(template.triangles) == 4 * len(base.triangles)
    assert torch.allclose(template.subdivide(base.vertices), template.vertices, atol=1e-2)


def transform(folder: Path, matrix: np.ndarray) -> None:
    """Turns or scales all meshes of a folder."""
    for path in folder.glob("*.obj"):
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines):
            kind, *fields = line.split() or [""]
            if kind == "v":
                moved = matrix @ np.array(fields[:3], float)
                lines[number] = " ".join(["v", *map(repr, moved.tolist()), *fields[3:]])
        path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (0.01 * np.eye(3), r"unit cm: the outer eye corners are 0\.\d+ mm apart; the files seem to be in m"),
        (np.diag([-1.0, 1.0, -1.0]), r"export with \+x to the subject's left"),
        (np.eye(3)[[0, 2, 1]], r"export with \+x to the subject's left"),
    ],
)
def test_a_wrong_unit_and_wrong_axes_are_noticed(folder: Path, matrix: np.ndarray, message: str) -> None:
    transform(folder, matrix)
    with pytest.raises(ValueError, match=message):
        FaceTemplate.from_folder(folder, unit="cm", num_nodes=NODES)


def test_landmarks_as_vertices_and_plain_files(folder: Path, source: FaceTemplate) -> None:
    near = torch.cdist(source.landmarks(source.vertices), source.vertices).argmin(dim=1)
    (folder / "landmarks.txt").write_text("\n".join(str(v) for v in near.tolist()))
    faces = [[v for v in face] for face in source.triangles.tolist()]
    count = len(source.vertices)
    text = "\n".join(f"v {x} {y} {z}" for x, y, z in source.vertices.tolist())
    text += "\n" + "\n".join("f " + " ".join(str(v - count) for v in face) for face in faces)
    for name in ("neutral", *EXPRESSIONS):
        (folder / f"{name}.obj").write_text(text.replace("v ", "v  ", 3))
    template = FaceTemplate.from_folder(folder, num_nodes=NODES)
    marks, vertices = template.landmarks(template.vertices), template.vertices
    assert torch.allclose(marks, vertices[near], atol=1e-4)
    assert torch.equal(template.triangles, source.triangles), "negative indices count from the end"
    skin = template.colors[template.regions["skin"] > 0.5]
    assert skin.std(dim=0).max() < 0.2 and (template.colors[template.regions["eyes"] > 0.5] > 0.5).all()


@pytest.mark.parametrize("missing", ["neutral.obj", "landmarks.txt"])
def test_a_missing_file_is_named(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(ValueError, match=missing):
        FaceTemplate.from_folder(folder)


def test_other_mistakes_are_named(folder: Path, source: FaceTemplate) -> None:
    with pytest.raises(ValueError, match="unknown unit 'inch'"):
        FaceTemplate.from_folder(folder, unit="inch")
    with pytest.raises(ValueError, match="level"):
        FaceTemplate.from_folder(folder, level=-1)
    with pytest.raises(ValueError, match=r"neutral\.obj: 9999 nodes"):
        FaceTemplate.from_folder(folder, unit="cm", num_nodes=9999)
    for name in EXPRESSIONS:
        (folder / f"{name}.obj").rename(folder / f"{name}.txt")
    with pytest.raises(ValueError, match="no expression"):
        FaceTemplate.from_folder(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text + "v 0 0 0\n", f"has {COUNT + 1} vertices, but neutral.obj has {COUNT}"),
        (lambda text: text.replace("\nf ", "\n# ", 1), "other faces"),
        (lambda text: text.replace("v ", "v x", 1), r"line \d+: could not convert"),
        (lambda text: text + "f 1 2\n", r"line \d+: a face needs three corners"),
        (lambda text: text + "f 1 2 99999\n", "uses vertex 99999"),
        (lambda text: text + "f 1 2 0\n", r"line \d+: index 0 is out of range"),
        (lambda text: text + "f 1/99999 2 3\n", "texture coordinate 99999|other faces"),
        (lambda text: text.replace("v ", "v nan 1 1\n#", 1), "not finite"),
        (lambda text: text.replace("v ", "v 1 ", 1), "all read"),
        (lambda text: "", "needs faces"),
    ],
)
def test_a_bad_mesh_is_named(folder: Path, change, message: str) -> None:
    file = folder / "jawOpen.obj"
    file.write_text(change(file.read_text()))
    with pytest.raises(ValueError, match=message) as error:
        FaceTemplate.from_folder(folder)
    assert "jawOpen.obj" in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("99999", "no triangle of neutral.obj has vertex 99999"),
        ("-1", "no triangle of neutral.obj has vertex -1"),
        ("99999 0.2 0.3 0.5", "triangle below"),
        ("5 0.2 0.3", "write `vertex`"),
        ("5 0.2 0.3 0.6", "sum to 1"),
        ("5 -0.2 0.6 0.6", "negative"),
        ("nose", "invalid literal"),
        ("", "must hold 68 landmarks, not 67"),
    ],
)
def test_bad_landmarks_are_named(folder: Path, line: str, message: str) -> None:
    file = folder / "landmarks.txt"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:31], line, *lines[32:]]))
    with pytest.raises(ValueError, match=message) as error:
        FaceTemplate.from_folder(folder)
    assert "landmarks.txt" in str(error.value)


def write_surface(folder: Path, source: FaceTemplate) -> list[str]:
    """The shipped template's surface points, in a folder's surface.txt."""
    rows = zip(source.surface_triangles.tolist(), source.surface_barycentrics.tolist(), strict=True)
    lines = [f"{triangle} {' '.join(f'{b:.6f}' for b in weights)}" for triangle, weights in rows]
    (folder / "surface.txt").write_text("# written by fmlfast calibrate\n" + "\n".join(lines) + "\n")
    return lines


def test_surface_points_are_read_where_there_are_any(folder: Path, source: FaceTemplate) -> None:
    without = FaceTemplate.from_folder(folder, unit="cm", num_nodes=NODES, level=1)
    assert without.surface_triangles.shape == (0,) and without.surface_barycentrics.shape == (0, 3)
    none = torch.zeros(0, dtype=torch.int64)
    assert without.surface_points(without.vertices, none).shape == (0, 3)
    write_surface(folder, source)
    template, ids = FaceTemplate.from_folder(folder, unit="cm", num_nodes=NODES), torch.arange(478)
    found = template.surface_points(template.vertices, ids)
    torch.testing.assert_close(found, source.surface_points(source.vertices, ids), atol=1e-2, rtol=0)
    assert template.fingerprint == without.fingerprint  # codes do not depend on them
    level = FaceTemplate.from_folder(folder, unit="cm", num_nodes=NODES, level=1)
    assert (level.surface_points(level.vertices, ids) - found).norm(dim=1).max() < 2  # mm
    model = FML(replace(SMALL, complement_rank=0), template)
    assert len(model.noise.picked) > 100


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("99999", "no triangle of neutral.obj has vertex 99999"),
        ("99999 0.2 0.3 0.5", "triangle below"),
        ("5 0.2 0.3 0.6", "sum to 1"),
        ("chin", "invalid literal"),
        ("", "must hold 478 .*, not 477"),
    ],
)
def test_bad_surface_points_are_named(folder: Path, source: FaceTemplate, line: str, message: str) -> None:
    lines = write_surface(folder, source)
    (folder / "surface.txt").write_text("\n".join([*lines[:200], line, *lines[201:]]))
    with pytest.raises(ValueError, match=message) as error:
        FaceTemplate.from_folder(folder)
    assert "surface.txt" in str(error.value)


def test_without_surface_points_the_landmarks_are_used(folder: Path, frames: Frames, dense_frames: Frames) -> None:
    template = FaceTemplate.from_folder(folder, unit="cm", num_nodes=NODES)
    torch.manual_seed(0)
    model = FML(replace(SMALL, complement_rank=0), template).eval()
    assert len(model.noise.picked) == 0
    asked = replace(dense_frames, landmarks=frames.landmarks, confidence=frames.confidence)
    starts = [model.observe(observed).start for observed in (frames, asked)]
    assert starts[0] is not None and starts[1] is not None
    assert starts[0].smooth is not None and starts[1].smooth is not None
    assert starts[0].smooth.abs().max() > 0.1
    torch.testing.assert_close(starts[1].smooth, starts[0].smooth, atol=0.05, rtol=0)
    codes = model.encode(frames)
    plain, also = (objective(model, observed, codes, LossWeights(), 0.0)["landmarks"] for observed in (frames, asked))
    assert plain.isfinite().all() and (plain > 0).all()
    torch.testing.assert_close(also, plain)


def test_a_surface_that_cannot_be_subdivided_is_named(folder: Path) -> None:
    for file in folder.glob("*.obj"):
        file.write_text(file.read_text() + "f 1 2 3000\nf 1 2 3001\nf 1 2 3002\n")
    with pytest.raises(ValueError, match=r"neutral\.obj: an edge belongs to more than two triangles"):
        FaceTemplate.from_folder(folder, unit="cm", num_nodes=NODES, level=1)


def test_8_bit_colors_are_refused(folder: Path, source: FaceTemplate) -> None:
    write_obj(folder / "neutral.obj", source.vertices.numpy(), source.triangles.tolist(), np.full((COUNT, 3), 128.0))
    for name in EXPRESSIONS:
        (folder / f"{name}.obj").write_text((folder / "neutral.obj").read_text())
    with pytest.raises(ValueError, match=r"colours must lie in \[0, 1\]"):
        FaceTemplate.from_folder(folder, num_nodes=NODES)


def test_obj_colors_and_weights(tmp_path: Path) -> None:
    path = tmp_path / "a.obj"
    path.write_text("v 0 0 0 1\nv 1 0 0 1\nv 1 1 0 1\nv 0 1 0 1\nv -1 .5 0 1\nf 1//1 2//1 3//1 4//1 5//1\n")
    mesh = read_obj(path)
    assert mesh.triangles.tolist() == [[0, 1, 2], [0, 2, 3], [0, 3, 4]]
    assert mesh.colors is None and mesh.vertices.shape == (5, 3) and not mesh.uv.any()


def test_files_are_found_as_peoples_disks_have_them(folder: Path) -> None:
    """Letter case of names, companions of macOS, and the mark that Windows' editor puts before a text."""
    plain = FaceTemplate.from_folder(folder, unit="cm", num_nodes=NODES)
    (folder / "neutral.obj").rename(folder / "Neutral.OBJ")
    (folder / f"{EXPRESSIONS[1]}.obj").rename(folder / f"{EXPRESSIONS[1]}.OBJ")
    text = (folder / "landmarks.txt").read_text()
    (folder / "landmarks.txt").unlink()
    (folder / "Landmarks.txt").write_text(text.replace("# iBUG 68\n", ""), encoding="utf-8-sig")
    for name in ("jawOpen", "neutral"):
        (folder / f"._{name}.obj").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(50))
    found = FaceTemplate.from_folder(folder, unit="cm", num_nodes=NODES)
    assert found.expression_names == plain.expression_names and found.fingerprint == plain.fingerprint
    (folder / "jawOpen.OBJ").write_bytes((folder / "jawOpen.obj").read_bytes())
    if len(list(folder.glob("jawOpen.*"))) == 2:  # not where the disk takes both for one
        with pytest.raises(ValueError, match="two files of one expression"):
            FaceTemplate.from_folder(folder, unit="cm", num_nodes=NODES)
