import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fmlfast.color import linear_to_srgb
from fmlfast.mesh_io.mesh import unit_normals
from fmlfast.reconstruction.head import Motion
from fmlfast.reconstruction.head_files import write_head
from fmlfast.template.arkit_names import ARKIT_NAMES
from fmlfast.template.parts import split_template
from tests.helpers.glb_reader import Glb
from tests.helpers.heads import in_gltf_world, make_head, make_motion, make_own_head

HEAD = make_head()
TEMPLATE = HEAD.template
PARTS = {part.name: part for part in split_template(TEMPLATE)}
EYES = ("eye_left", "eye_right")
SHAPES = [name for name in ARKIT_NAMES if name != "tongueOut"]


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Glb:
    path = tmp_path_factory.mktemp("files") / "head.glb"
    write_head(path, HEAD)
    return Glb(path)


def weights(**shapes: float) -> torch.Tensor:
    found = torch.zeros(len(TEMPLATE.expression_names))
    for name, value in shapes.items():
        found[TEMPLATE.expression_names.index(name)] = value
    return found


def world(glb: Glb, name: str) -> np.ndarray:
    """A still node's vertices in the root's frame."""
    return glb.arrays(name)["POSITION"] + np.asarray(glb.node(name).get("translation", [0, 0, 0]))


def test_the_parts_are_nodes_under_one_root(still: Glb) -> None:
    (root,) = still.document["scenes"][0]["nodes"]
    node = still.document["nodes"][root]
    assert node["name"] == "face" and node.keys() == {"name", "children"}
    children = [still.document["nodes"][child]["name"] for child in node["children"]]
    assert children == ["head", "eye_left", "eye_right", "teeth_upper", "teeth_lower", "tongue", "lashes"]
    assert world(still, "eye_left")[:, 0].mean() > 0.02 > -0.02 > world(still, "eye_right")[:, 0].mean()
    assert world(still, "teeth_upper")[:, 1].mean() > world(still, "teeth_lower")[:, 1].mean()


def test_the_parts_together_are_the_neutral_head_in_metres(still: Glb) -> None:
    for name, part in PARTS.items():
        arrays = still.arrays(name)
        np.testing.assert_allclose(world(still, name), HEAD.neutral[part.vertices].numpy() / 1000, atol=1e-7)
        np.testing.assert_array_equal(part.vertices[arrays["indices"]][:5], _owned(part.vertices)[:5])
        uv = TEMPLATE.uv[part.vertices].numpy() * [1, -1] + [0, 1]
        np.testing.assert_allclose(arrays["TEXCOORD_0"], uv, atol=1e-6)
    assert sum(len(part.triangles) for part in PARTS.values()) == len(TEMPLATE.triangles)


def _owned(vertices: np.ndarray) -> np.ndarray:
    triangles = TEMPLATE.triangles.numpy()
    return triangles[np.isin(triangles, vertices).all(1)]


def test_every_mesh_that_moves_has_the_shapes_of_arkit_in_its_order(still: Glb) -> None:
    moving = [name for name in PARTS if "targets" in still.mesh(name)["primitives"][0]]
    assert set(moving) == {"head", *EYES, "teeth_upper", "teeth_lower", "tongue", "lashes"}  # mouthFunnel, upper teeth
    for name in moving:
        assert still.mesh(name)["extras"]["targetNames"] == SHAPES
        assert still.mesh(name)["weights"] == [0.0] * len(SHAPES)


def test_morph_targets_are_the_expressions_with_their_normals(still: Glb) -> None:
    whole, triangles = HEAD.neutral.numpy(), TEMPLATE.triangles.numpy()
    normals = unit_normals(whole[None], triangles)[0]
    for name in set(PARTS) - set(EYES):
        ids, targets, changes = PARTS[name].vertices, still.targets(name), still.targets(name, "NORMAL")
        for place in (SHAPES.index("jawOpen"), SHAPES.index("eyeLookDownLeft"), SHAPES.index("mouthSmileRight")):
            delta = TEMPLATE.expressions[TEMPLATE.expression_names.index(SHAPES[place])].numpy()
            np.testing.assert_allclose(targets[place], delta[ids] / 1000, atol=1e-6)
            turned = unit_normals((whole + delta)[None], triangles)[0]
            np.testing.assert_allclose(changes[place], (turned - normals)[ids], atol=1.1e-3)
    jaw = SHAPES.index("jawOpen")
    assert still.targets("teeth_lower")[jaw, :, 1].max() < -0.01
    assert still.targets("tongue")[jaw, :, 1].mean() < -0.01
    assert not still.targets("teeth_upper")[jaw].any()


def test_displacements_below_a_thousandth_of_a_millimetre_are_left_out(still: Glb) -> None:
    targets = still.mesh("head")["primitives"][0]["targets"]
    stored = still.document["accessors"][targets[SHAPES.index("eyeBlinkLeft")]["POSITION"]]
    delta = TEMPLATE.expressions[TEMPLATE.expression_names.index("eyeBlinkLeft"), PARTS["head"].vertices]
    assert stored["sparse"]["count"] == int((delta.norm(dim=1) > 1e-3).sum()) < 0.2 * stored["count"]
    assert "bufferView" not in stored
    assert len(still.binary) < 0.35 * len(SHAPES) * len(TEMPLATE.vertices) * 24  # positions and normals in full


def test_eyeballs_turn_about_their_centres_and_draw_back_behind_closed_lids(still: Glb) -> None:
    for name, side in zip(EYES, ("Left", "Right"), strict=True):
        ids, targets = PARTS[name].vertices, still.targets(name)
        looks = [i for i, shape in enumerate(SHAPES) if shape.startswith("eyeLook")]
        assert not targets[looks].any()
        back = targets[SHAPES.index(f"eyeBlink{side}")]
        np.testing.assert_allclose(back, np.broadcast_to([0, 0, -0.0042], back.shape), atol=1e-6)
        template_eye = TEMPLATE.vertices[ids].numpy().astype(float)
        center = np.linalg.lstsq(np.c_[2 * template_eye, np.ones(len(ids))], (template_eye**2).sum(1), rcond=None)[0][
            :3
        ]
        moved = center * [1.05, 0.97, 1.02] + [0.4, -1.0, 0.7]
        np.testing.assert_allclose(still.node(name)["translation"], moved / 1000, atol=2e-6)
        gaze = still.node(name)["extras"]["gaze"]
        assert set(gaze) == {f"eyeLook{way}{side}" for way in ("Down", "In", "Out", "Up")}
        outwards = 1 if side == "Left" else -1  # 30 degrees about +y
        expected = [0, outwards * np.sin(np.radians(15)), 0, np.cos(np.radians(15))]
        np.testing.assert_allclose(gaze[f"eyeLookOut{side}"], expected, atol=1e-4)


def test_an_animation_moves_every_vertex_as_the_head_does(tmp_path: Path) -> None:
    head = make_head(1)
    generator = torch.Generator().manual_seed(0)
    expression = torch.rand(5, len(TEMPLATE.expression_names), generator=generator)
    looking = torch.tensor([name.startswith("eyeLook") for name in TEMPLATE.expression_names])
    motion = make_motion(torch.where(looking, 0.0, expression))
    write_head(tmp_path / "head.glb", head, motion=motion)
    glb, truth = Glb(tmp_path / "head.glb"), in_gltf_world(head, motion)
    for index, frame in enumerate(glb.frames()):
        for part in split_template(head.template):
            np.testing.assert_allclose(frame[part.name], truth[index, part.vertices], atol=1e-5)
    np.testing.assert_allclose(glb.times, motion.times, atol=1e-6)


def test_gaze_in_an_animation_is_a_rotation_that_agrees_with_the_expressions_at_full_strength(tmp_path: Path) -> None:
    template = HEAD.template
    head = replace(HEAD, neutral=template.vertices + torch.tensor([0.5, -1.0, 2.0]))  # eyeballs of the template's size
    full = weights(eyeLookOutLeft=1.0, eyeLookInRight=1.0)
    half = weights(eyeLookUpLeft=0.5, eyeLookUpRight=0.5)
    both = weights(eyeLookUpLeft=0.5, eyeLookInLeft=0.5)
    motion = make_motion(torch.stack([full, half, both]))
    write_head(tmp_path / "head.glb", head, motion=motion)
    frames = Glb(tmp_path / "head.glb").frames()
    truth = in_gltf_world(head, motion)
    for name in EYES:
        ids = PARTS[name].vertices
        np.testing.assert_allclose(frames[0][name], truth[0, ids], atol=2e-5)
        radius = np.linalg.norm(frames[1][name] - frames[1][name].mean(0), axis=1)
        rest = head.neutral[ids].numpy() / 1000
        np.testing.assert_allclose(radius, np.linalg.norm(rest - rest.mean(0), axis=1), atol=1e-6)  # no shrinking
        for index in (1, 2):
            np.testing.assert_allclose(frames[index][name], truth[index, ids], atol=1.5e-3)


def test_a_motion_rests_where_it_begins(tmp_path: Path) -> None:
    motion = make_motion(torch.zeros(3, len(TEMPLATE.expression_names)))
    write_head(tmp_path / "head.glb", HEAD, motion=motion)
    root = Glb(tmp_path / "head.glb").node("face")
    np.testing.assert_allclose(root["translation"], motion.translation[0].numpy() * [1, -1, -1] / 1000, atol=1e-6)
    assert np.isclose(np.linalg.norm(root["rotation"]), 1)


def test_an_own_template_makes_a_file_with_its_own_names(tmp_path: Path) -> None:
    head = make_own_head()
    write_head(tmp_path / "own.glb", head, motion=make_motion(torch.rand(2, 2)))
    glb = Glb(tmp_path / "own.glb")
    assert [node["name"] for node in glb.document["nodes"]] == ["head", "face"]
    assert glb.mesh("head")["extras"]["targetNames"] == ["mouth wide", "mouth_wide"]
    np.testing.assert_allclose(glb.targets("head") * 1000, head.template.expressions.numpy(), atol=1e-3)


def test_a_head_without_texture_shows_its_reflectance_and_names_no_material(tmp_path: Path) -> None:
    write_head(tmp_path / "head.glb", replace(HEAD, texture=None))
    glb = Glb(tmp_path / "head.glb")
    assert not {"materials", "textures", "images", "extensionsUsed"} & glb.document.keys()
    colors = glb.arrays("eye_left")["COLOR_0"]
    np.testing.assert_array_equal(colors, HEAD.reflectance[PARTS["eye_left"].vertices].numpy())
    assert "TEXCOORD_0" not in glb.arrays("eye_left")


@pytest.mark.parametrize("unlit", [False, True])
def test_the_texture_is_embedded_as_it_is(tmp_path: Path, unlit: bool) -> None:
    write_head(tmp_path / "head.glb", HEAD, unlit=unlit)
    glb = Glb(tmp_path / "head.glb")
    surface, lashes = glb.document["materials"]
    for material in (surface, lashes):
        assert ("KHR_materials_unlit" in material.get("extensions", {})) is unlit
        assert material["pbrMetallicRoughness"]["metallicFactor"] == 0.0
    assert glb.document.get("extensionsUsed", []) == ["KHR_materials_unlit"] * unlit
    assert "doubleSided" not in surface and lashes["doubleSided"]
    assert len(glb.document["images"]) == 1
    np.testing.assert_array_equal(glb.texture(), HEAD.texture)
    assert "COLOR_0" not in glb.arrays("head")


def test_pygltflib_reads_the_same(tmp_path: Path) -> None:
    pygltflib = pytest.importorskip("pygltflib")
    write_head(tmp_path / "head.glb", HEAD, motion=make_motion(torch.rand(4, len(TEMPLATE.expression_names))))
    glb, read = Glb(tmp_path / "head.glb"), pygltflib.GLTF2().load(str(tmp_path / "head.glb"))
    assert read.binary_blob() == glb.binary
    names = [mesh.extras.get("targetNames") for mesh in read.meshes]
    assert names == [SHAPES] * len(PARTS)
    assert [node.name for node in read.nodes] == [*PARTS, "face"]
    assert json.loads(read.to_json()) == glb.document | json.loads(read.to_json())
    assert {channel.target.path for channel in read.animations[0].channels} == {"rotation", "translation", "weights"}


def test_trimesh_reads_meshes_and_texture_of_a_head(tmp_path: Path) -> None:
    trimesh = pytest.importorskip("trimesh")
    write_head(tmp_path / "head.glb", HEAD)
    scene = trimesh.load(tmp_path / "head.glb", process=False)
    assert set(scene.geometry) == set(PARTS)
    for name, part in PARTS.items():
        matrix, key = scene.graph[name]
        points = trimesh.transform_points(scene.geometry[key].vertices, matrix)
        np.testing.assert_allclose(points, HEAD.neutral[part.vertices].numpy() / 1000, atol=1e-6)
    image = scene.geometry["head"].visual.material.baseColorTexture
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), HEAD.texture)


def test_obj_and_ply_hold_the_neutral_head_in_the_templates_order(tmp_path: Path) -> None:
    trimesh = pytest.importorskip("trimesh")
    for suffix in ("obj", "ply"):
        write_head(tmp_path / f"head.{suffix}", HEAD)
        mesh = trimesh.load(tmp_path / f"head.{suffix}", process=False, maintain_order=True)
        np.testing.assert_array_equal(mesh.vertices.astype(np.float32), HEAD.neutral.numpy())
        np.testing.assert_array_equal(mesh.faces, TEMPLATE.triangles.numpy())
        if suffix == "obj":
            np.testing.assert_array_equal(np.asarray(mesh.visual.material.image), HEAD.texture)
            np.testing.assert_allclose(mesh.visual.uv, TEMPLATE.uv.numpy(), atol=1e-6)
        else:
            stored = mesh.visual.vertex_colors[:, :3] / 255  # of no use to viewers where there are uv as well
            np.testing.assert_allclose(stored, linear_to_srgb(HEAD.reflectance).numpy(), atol=0.003)
    assert "illum 0" not in (tmp_path / "head.mtl").read_text()
    write_head(tmp_path / "head.obj", HEAD, unlit=True)
    assert "illum 0" in (tmp_path / "head.mtl").read_text()


def test_bad_heads_and_motions_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    count = len(TEMPLATE.expression_names)
    good = make_motion(torch.zeros(3, count))
    cases: list[tuple[str, str, dict]] = [
        ("end the name in one of .obj, .ply, .glb, .usdz", "head.fbx", {}),
        ("write the motion as .glb or .usdz", "head.obj", {"motion": good}),
        ("rise from frame to frame", "head.glb", {"motion": replace(good, times=good.times[::-1].copy())}),
        ("not negative", "head.glb", {"motion": replace(good, times=good.times - 9)}),
        ("needs expression", "head.glb", {"motion": replace(good, expression=good.expression[:, 1:])}),
        ("needs expression", "head.glb", {"motion": Motion(*(x[:0] for x in vars(good).values()))}),
        ("must be finite", "head.glb", {"motion": replace(good, translation=good.translation * torch.nan)}),
    ]
    for reason, name, options in cases:
        with pytest.raises(ValueError, match=reason):
            write_head(tmp_path / name, HEAD, **options)
    with pytest.raises(ValueError, match="its template 4615"):
        write_head(tmp_path / "head.glb", replace(HEAD, neutral=HEAD.neutral[1:]))
    with pytest.raises(ValueError, match="texture must be uint8"):
        write_head(tmp_path / "head.glb", replace(HEAD, texture=np.zeros((8, 8, 3))))
    assert list(tmp_path.iterdir()) == []
