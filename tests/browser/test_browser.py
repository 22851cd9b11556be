"""Opens files as other programs do: Khronos' glTF validator, and three.js in headless Chromium.

Needs node and `npm ci` in this folder; the pictures also need Chromium.
"""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fmlfast.mesh_io import write_mesh
from fmlfast.reconstruction.head import Head
from fmlfast.reconstruction.head_files import write_head
from fmlfast.template.arkit_names import ARKIT_NAMES
from fmlfast.template.parts import split_template
from tests.helpers.heads import in_gltf_world, make_head, make_motion, make_own_head

HOME = Path(__file__).parent
HEAD = make_head()
NAMES = HEAD.template.expression_names
PARTS = {part.name: part for part in split_template(HEAD.template)}
PLAIN = np.full((16, 16, 3), (200, 120, 90), np.uint8)
SHAPES = {"jaw": {"jawOpen": 0.7}, "smile": {"mouthSmileLeft": 1.0, "mouthSmileRight": 1.0}}
SHAPES["blink"] = {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0}


@pytest.fixture(scope="module")
def node() -> str:
    program = shutil.which("node")
    if program is None:
        pytest.skip("node is not installed")
    if not (HOME / "node_modules" / "three").is_dir():
        pytest.skip("node_modules is missing; run `npm ci` in tests/browser")
    return program


@pytest.fixture(scope="module")
def chromium() -> str:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("chromium is not installed")
    return program


def expression(**weights: float) -> torch.Tensor:
    found = torch.zeros(len(NAMES))
    for name, weight in weights.items():
        found[NAMES.index(name)] = weight
    return found


def moving() -> tuple[Head, Any]:
    """A head with eyeballs of the template's size, and its motion with gaze and speech."""
    head = replace(HEAD, neutral=HEAD.template.vertices + torch.tensor([0.5, -1.0, 2.0]))
    frames = [expression(jawOpen=0.6), expression(eyeLookOutLeft=1.0, eyeLookInRight=1.0), expression(mouthPucker=0.8)]
    return head, make_motion(torch.stack(frames))


def validate(node: str, *files: Path) -> list[dict[str, Any]]:
    command = [node, str(HOME / "validate.mjs"), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_khronos_validator_finds_no_fault_with_any_kind_of_file(node: str, tmp_path: Path) -> None:
    head, motion = moving()
    bare = replace(HEAD, texture=None)
    write_head(tmp_path / "textured.glb", HEAD)
    write_head(tmp_path / "unlit.glb", HEAD, unlit=True)
    write_head(tmp_path / "colors.glb", bare)
    write_head(tmp_path / "unlit_colors.glb", bare, unlit=True)
    write_head(tmp_path / "own.glb", make_own_head(), motion=make_motion(torch.rand(2, 2)))
    write_head(tmp_path / "moving.glb", head, motion=motion)
    write_head(tmp_path / "moment.glb", head, motion=make_motion(motion.expression[:1]))
    vertices, triangles = HEAD.neutral, HEAD.template.triangles
    write_mesh(tmp_path / "mesh.glb", vertices, triangles, HEAD.reflectance)
    write_mesh(tmp_path / "mesh_uv.glb", vertices, triangles, None, HEAD.template.uv, PLAIN)
    files = sorted(tmp_path.glob("*.glb"))
    assert len(files) == 9
    for report in validate(node, *files):
        assert (report["errors"], report["warnings"], report["messages"]) == (0, 0, []), report["file"]
        assert report["info"]["totalTriangleCount"] == len(triangles)


def test_khronos_validator_can_fail(node: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.glb"
    write_head(path, HEAD)
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"max":[', b'"max":[9', 1)[: len(data)])
    assert validate(node, path)[0]["errors"] > 0


@pytest.fixture(scope="module")
def drawn(node: str, chromium: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of pictures, and what three.js says of each file, by name."""
    folder = tmp_path_factory.mktemp("browser")
    head, motion = moving()
    write_head(folder / "head.glb", HEAD)
    write_head(folder / "moving.glb", head, motion=motion)
    write_head(folder / "plain.glb", replace(HEAD, texture=PLAIN), unlit=True)
    write_head(folder / "colors.glb", replace(HEAD, texture=None))
    probes = {name: [0, len(part.vertices) // 2, len(part.vertices) - 1] for name, part in PARTS.items()}
    turned = {"eye_left": [[0, 1, 0], 25], "eye_right": [[0, 1, 0], 25]}
    shots = [{"name": "neutral"}, {"name": "side", "angle": 80}]
    shots += [{"name": name, "weights": weights} for name, weights in SHAPES.items()]
    frames = [{"name": f"frame{i}", "time": time, "distance": 1} for i, time in enumerate(motion.times.tolist())]
    tasks = [
        {"file": str(folder / "head.glb"), "shots": shots},
        {"file": str(folder / "moving.glb"), "shots": frames},
        {"file": str(folder / "plain.glb"), "shots": [{"name": "plain"}]},
        {"file": str(folder / "colors.glb"), "shots": [{"name": "colors"}, {"name": "left", "turns": turned}]},
    ]
    for task in tasks:
        task["shots"] = [{"size": 256, "probes": probes, **shot} for shot in task["shots"]]
    (folder / "tasks.json").write_text(json.dumps(tasks))
    command = [node, str(HOME / "render.mjs"), chromium, str(folder / "tasks.json"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert [line for line in answer["problems"] if "GPU stall" not in line] == []
    return folder, {Path(item["file"]).stem: item for item in answer["answers"]}


def picture(folder: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(folder / f"{name}.png").convert("RGB")).astype(int)


def changed(folder: Path, name: str, before: str = "neutral") -> tuple[float, float, float]:
    """Share of pixels in which two pictures differ, and their mean row and column, 0..1."""
    differs = np.abs(picture(folder, name) - picture(folder, before)).max(2) > 20
    rows, columns = np.nonzero(differs)
    return differs.mean(), rows.mean() / len(differs), columns.mean() / len(differs)


def test_three_js_knows_every_mesh_shape_and_texture(drawn: tuple[Path, dict[str, Any]]) -> None:
    meshes = {mesh["name"]: mesh for mesh in drawn[1]["head"]["meshes"]}
    assert set(meshes) == set(PARTS)
    for name, mesh in meshes.items():
        assert mesh["vertices"] == len(PARTS[name].vertices)
        assert list(mesh["morphs"]) == [shape for shape in ARKIT_NAMES if shape != "tongueOut"]
        assert (mesh["material"], mesh["map"]) == ("MeshStandardMaterial", 64)
    assert {mesh["material"] for mesh in drawn[1]["plain"]["meshes"]} == {"MeshBasicMaterial"}
    assert all(mesh["vertexColors"] for mesh in drawn[1]["colors"]["meshes"])


@pytest.mark.parametrize("shape", SHAPES)
def test_three_js_moves_vertices_as_the_head_does(drawn: tuple[Path, dict[str, Any]], shape: str) -> None:
    posed = HEAD.posed(expression(**SHAPES[shape])).numpy() / 1000
    for name, positions in drawn[1]["head"]["positions"][shape].items():
        ids = PARTS[name].vertices
        truth = posed[ids[[0, len(ids) // 2, -1]]]
        np.testing.assert_allclose(positions, truth, atol=2e-6)


def test_three_js_plays_the_motion_as_the_camera_saw_it(drawn: tuple[Path, dict[str, Any]]) -> None:
    head, motion = moving()
    truth = in_gltf_world(head, motion)
    tracks = drawn[1]["moving"]["tracks"]
    assert {"face.quaternion", "face.position", "eye_left.quaternion", "head.morphTargetInfluences"} <= set(tracks)
    assert drawn[1]["moving"]["duration"] == pytest.approx(motion.times[-1], abs=1e-5)
    for frame in range(len(motion.times)):
        for name, positions in drawn[1]["moving"]["positions"][f"frame{frame}"].items():
            ids = PARTS[name].vertices
            np.testing.assert_allclose(positions, truth[frame, ids[[0, len(ids) // 2, -1]]], atol=5e-5)


def test_pictures_change_where_the_face_moves(drawn: tuple[Path, dict[str, Any]]) -> None:
    folder = drawn[0]
    share, row, column = changed(folder, "jaw")
    assert share > 0.01 and 0.55 < row < 0.8 and abs(column - 0.5) < 0.03
    share, row, column = changed(folder, "blink")
    assert 0.0005 < share < 0.02 and 0.35 < row < 0.5 and abs(column - 0.5) < 0.03
    share, row, column = changed(folder, "smile")
    assert share > 0.005 and 0.5 < row < 0.7 and abs(column - 0.5) < 0.03
    share, row, column = changed(folder, "left", "colors")
    assert 0.001 < share < 0.01 and 0.35 < row < 0.5 and abs(column - 0.5) < 0.03


def test_an_unlit_texture_is_shown_in_its_own_colours(drawn: tuple[Path, dict[str, Any]]) -> None:
    middle = picture(drawn[0], "plain")[100:160, 100:160].reshape(-1, 3)
    assert np.abs(middle - PLAIN[0, 0]).max() <= 1


def test_vertex_colours_are_seen(drawn: tuple[Path, dict[str, Any]]) -> None:
    red, green, blue = picture(drawn[0], "colors")[110:130, 118:138].reshape(-1, 3).mean(0)
    assert red > green + 15 > blue + 20 and red > 60  # skin, not grey and not black
