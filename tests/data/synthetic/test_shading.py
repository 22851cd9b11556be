"""Shadow, highlights, the camera and lenses of synthetic pictures."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fmlfast.data.synthetic import scene
from fmlfast.data.synthetic.camera_response import camera_gains
from fmlfast.data.synthetic.clip_renderer import ClipRenderer, Scene
from fmlfast.data.synthetic.eyewear import Lenses, glasses, look_through, mirrored
from fmlfast.data.synthetic.motion import HeadMotion, random_head_motion, rotation_from_angles
from fmlfast.data.synthetic.people import PeopleSampler
from fmlfast.data.synthetic.random_light import LUMINANCE, Light, shade_environment
from fmlfast.data.synthetic.scene import LabelledClip
from fmlfast.data.synthetic.shading import Gloss, cast_shadow, highlights, lambert
from fmlfast.data.synthetic.skin import FaceAppearance, Look
from fmlfast.data.synthetic.tones import skin_color
from fmlfast.renderer import rasterize, vertex_normals
from fmlfast.template.face_template import FaceTemplate

DISTANCE = 700.0  # mm


def light_from(toward: tuple[float, float, float], key: float = 1.0) -> Light:
    direction = np.array(toward) / np.linalg.norm(toward)
    return Light(shade_environment(np.full((1024, 3), 0.5)), key * np.ones(3), direction, 0.15)


@pytest.fixture(scope="module")
def template() -> FaceTemplate:
    return FaceTemplate.default(0)


@pytest.fixture(scope="module")
def face(template: FaceTemplate) -> torch.Tensor:
    """The template before a camera, [1, V, 3]."""
    turn = torch.from_numpy(rotation_from_angles(np.zeros(3))).float()
    return (template.vertices @ turn.T + torch.tensor([0.0, 0.0, DISTANCE]))[None].contiguous()


@pytest.fixture(scope="module")
def look(template: FaceTemplate) -> Look:
    person = replace(PeopleSampler().sample(np.random.default_rng(1)), gender=0.0)
    return FaceAppearance(template, texel=1.0).sample(np.random.default_rng(3), person)


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_the_nose_casts_its_shadow_on_the_cheek_away_from_the_lamp(
    template: FaceTemplate, face: torch.Tensor, side: float
) -> None:
    normals = vertex_normals(face, template.triangles)
    light = light_from((side, -0.3, -0.6))  # of the image's x
    shadow = cast_shadow(light, face, template.triangles, face, normals, face.mean(dim=1), 128)[0]
    marks = template.landmarks(face[0])
    wings = [
        (face[0] - marks[k] - torch.tensor([out, 0.0, 0.0])).norm(dim=1) < 9.0 for k, out in ((31, -9.0), (35, 9.0))
    ]
    left, right = (float(shadow[near & (normals[0, :, 2] < -0.3)].mean()) for near in wings)  # in the image
    near, far = (right, left) if side > 0 else (left, right)
    assert near > 0.9 and far < 0.6
    assert 0.0 <= shadow.min() and shadow.max() <= 1.0


def test_an_open_plane_has_no_shadow() -> None:
    y, x = torch.meshgrid(torch.linspace(-60, 60, 13), torch.linspace(-60, 60, 13), indexing="ij")
    points = torch.stack([x, y, torch.full_like(x, DISTANCE)], dim=-1).reshape(1, -1, 3)
    corner = (torch.arange(12)[:, None] * 13 + torch.arange(12)).reshape(-1, 1)
    triangles = torch.cat([corner + torch.tensor([0, 1, 13]), corner + torch.tensor([1, 14, 13])]).int()
    normals = torch.tensor([0.0, 0.0, -1.0]).expand(points.shape).contiguous()
    light = light_from((0.7, 0.0, -0.7))
    shadow = cast_shadow(light, points, triangles, points, normals, points.mean(dim=1), 96)
    assert shadow.min() == 1.0


def test_occlusion_darkens_the_ambient_light_and_not_the_lamp() -> None:
    normals = torch.tensor([[[0.0, 0.0, -1.0], [0.0, 0.0, -1.0]]])
    light = light_from((0.0, 0.0, -1.0))
    around, lamp = lambert(light, normals, torch.tensor([1.0, 0.5]), torch.ones(1, 2))
    np.testing.assert_allclose(around[0, 0].numpy(), 0.5, atol=2e-3)
    assert (around[0, 1] < 0.6 * around[0, 0]).all() and around[0, 1, 0] > around[0, 1, 2]
    np.testing.assert_allclose(lamp.numpy(), 1.0)


def test_occlusion_is_in_the_picture_but_not_in_the_albedo(monkeypatch: pytest.MonkeyPatch) -> None:
    def clip(open_sky: float) -> LabelledClip:
        def everywhere(template: FaceTemplate, *_: np.ndarray) -> torch.Tensor:
            return torch.full((len(template.vertices),), open_sky)

        monkeypatch.setattr(scene, "ambient_occlusion", everywhere)
        return scene.SceneGenerator(0, 48, 1.0).render_clip(np.random.default_rng(6), "one", 1)

    free, covered = clip(1.0), clip(0.3)
    np.testing.assert_array_equal(free.truth["reflectance"], covered.truth["reflectance"])
    lit = [(k.clip.images[0, 18:30, 18:30] / 255.0) ** 2.2 / k.truth["sh"][0, 0] for k in (covered, free)]  # less gains
    assert lit[0].mean() < 0.9 * lit[1].mean()


def test_highlights_lie_between_lamp_and_camera_and_do_not_depend_on_albedo(
    template: FaceTemplate, face: torch.Tensor
) -> None:
    normals = vertex_normals(face, template.triangles)
    count = len(template.vertices)
    gloss = Gloss(torch.full((count,), 0.03), torch.full((count,), 30.0))
    light = light_from((0.6, 0.0, -0.8))
    around, lamp = lambert(light, normals, torch.ones(count), torch.ones(1, count))
    shine = highlights(light, gloss, face, normals, around, lamp)[0]
    half = torch.nn.functional.normalize(
        torch.from_numpy(light.toward).float() - torch.nn.functional.normalize(face[0], dim=-1), dim=-1
    )
    ahead = (torch.nn.functional.normalize(face[0], dim=-1) * normals[0]).sum(dim=-1) < -0.3
    shine = torch.where(ahead, shine, 0.0)
    assert float((half * normals[0]).sum(dim=-1)[shine.topk(20).indices].min()) > 0.95
    dark = highlights(replace(light, key=0.0 * light.key), gloss, face, normals, around, lamp)[0]
    assert (dark <= shine)[ahead].all() and shine.max() > 4.0 * dark[shine.argmax()]


def expose(template: FaceTemplate, face: torch.Tensor, look: Look, share: float) -> tuple[np.ndarray, np.ndarray]:
    """An image [S, S, 3] of the face with `share` of its albedo in one room, and the camera's gains [3]."""
    places = FaceAppearance(template, texel=1.0).detail.coordinates
    renderer = ClipRenderer(template, 64, 1.0, places, torch.ones(len(template.vertices)))
    setting = Scene(
        face,
        face[:, :0],
        [],
        None,
        replace(look, smooth=share * look.smooth),
        light_from((0.3, -0.5, -1.0)),
        np.zeros((1, 3)),
    )
    K = torch.tensor([[[DISTANCE * 64 / 235, 0.0, 32.0], [0.0, DISTANCE * 64 / 235, 32.0], [0.0, 0.0, 1.0]]])
    exposure = renderer.draw(np.random.default_rng(7), setting, K)
    return (exposure.images[0] / 255.0) ** 2.2, exposure.gains[0]


def test_in_the_same_room_a_dark_face_is_darker_but_by_less_than_its_albedo(
    template: FaceTemplate, face: torch.Tensor, look: Look
) -> None:
    (light, less), (dark, more) = (expose(template, face, look, share) for share in (1.0, 0.25))
    middle = slice(24, 40)
    ratio = dark[middle, middle].mean() / light[middle, middle].mean()
    assert 0.27 < ratio < 0.85
    opened = (more / less).mean()
    assert opened > 1.02  # the camera opens up
    assert dark[:10, :10].mean() / light[:10, :10].mean() == pytest.approx(
        opened, rel=0.05
    )  # the background tells of it


def test_a_camera_meters_light_and_removes_a_part_of_its_color() -> None:
    frames = np.random.default_rng(0).uniform(0.1, 0.4, (3, 16, 16, 3))
    face = np.zeros((3, 16, 16), bool)
    face[:, 4:12, 4:12] = True
    warm = np.array([1.5, 1.0, 0.5])
    for seed in range(20):
        gains = camera_gains(np.random.default_rng(seed), frames, face, np.ones(3))
        twice = camera_gains(np.random.default_rng(seed), 2.0 * frames, face, 2.0 * np.ones(3))
        np.testing.assert_allclose(twice, 0.5 * gains, rtol=1e-5)
        assert np.ptp(np.log(gains @ LUMINANCE)) < 0.15  # within a clip
        left = camera_gains(np.random.default_rng(seed), frames * warm, face, warm) * warm
        neutral = gains[0, 0] / gains[0, 2]
        assert 1.0 < (left[0, 0] / left[0, 2]) / neutral < 3.0**0.75


def test_faces_are_as_bright_and_as_red_as_in_photographs() -> None:
    """The medians of 60 cameras; real clips: luminance .21, red over green 2.1 (docs/data.md)."""
    shown = []
    for tone in (0.17, 0.5, 0.83):
        frames = np.full((1, 16, 16, 3), 0.2)
        face = np.zeros((1, 16, 16), bool)
        face[:, 4:14, 4:12] = True
        frames[face] = skin_color(tone)
        gains = [camera_gains(np.random.default_rng(seed), frames, face, np.ones(3))[0] for seed in range(60)]
        shown.append(np.median(gains * skin_color(tone), axis=0))
    dark, middle, light = np.array(shown) @ LUMINANCE
    assert 0.18 < middle < 0.26 and light < 0.36
    assert 1.7 < light / dark < 2.7  # of albedo: 4.3
    assert 1.9 < shown[1][0] / shown[1][1] < 2.3


def test_teeth_show_in_a_smile(monkeypatch: pytest.MonkeyPatch) -> None:
    """The light on teeth is a good part of the skin's; behind them it is dark."""
    smile = {"mouthSmile": 0.9, "mouthUpperUp": 0.5, "mouthLowerDown": 0.3, "jawOpen": 0.4}

    def smiling(rng: np.random.Generator, frames: int, names: tuple[str, ...]) -> HeadMotion:
        motion = random_head_motion(rng, frames, names)
        weights = [smile.get(name.removesuffix("Left").removesuffix("Right"), 0.0) for name in names]
        return replace(motion, expression=np.array([weights] * frames, np.float32), angles=0.0 * motion.angles)

    monkeypatch.setattr(scene, "random_head_motion", smiling)
    generator = scene.SceneGenerator(0, 128, 1.0)
    template = generator.template
    teeth, cavity, skin = (template.regions[name] > 0.8 for name in ("teeth", "mouth_bag", "face"))
    skin &= template.regions["lips"] + template.regions["eyes"] < 0.1
    ratios, behind = [], []
    for seed in range(6):
        clip = generator.render_clip(np.random.default_rng([2, seed]), "one", 1)
        truth = {name: torch.from_numpy(value) for name, value in clip.truth.items()}
        shape = truth["vertices"] + torch.einsum("e,evc->vc", truth["expression"][0], template.expressions)
        points = (shape @ truth["rotation"][0].T + truth["translation"][0])[None].contiguous()
        drawn = rasterize(points, template.triangles, torch.from_numpy(clip.clip.Ks), 128, 128, cull_backfaces=True)
        corners = template.triangles[drawn.triangle_id[0].clamp(min=0)].long()
        light = ((torch.from_numpy(clip.clip.images[0]) / 255.0) ** 2.2).mean(dim=-1)
        albedo = truth["reflectance"].mean(dim=-1)[corners].mean(dim=-1)
        upon = {
            name: part[corners].all(dim=-1) & (drawn.triangle_id[0] >= 0)
            for name, part in (("teeth", teeth), ("skin", skin), ("cavity", cavity))
        }
        on_teeth, on_skin = ((light / albedo)[upon[name]].median() for name in ("teeth", "skin"))
        ratios.append(float(on_teeth / on_skin))
        behind.append(float(light[upon["cavity"]].median() / light[upon["teeth"]].median()))
    assert 0.45 < np.nanmedian(ratios) < 1.0
    assert np.nanmedian(behind) < 0.3


def test_glare_is_where_lenses_are_and_nothing_hides_them(template: FaceTemplate) -> None:
    rng = np.random.default_rng(2)
    marks = template.landmarks(template.vertices).numpy()
    _, lenses = glasses(rng, marks)
    turn = torch.from_numpy(rotation_from_angles(np.zeros(3))).float()
    points = (torch.from_numpy(lenses.part.vertices).float() @ turn.T + torch.tensor([0.0, 0.0, DISTANCE]))[None]
    points = points.contiguous()
    K = torch.tensor([[[2.0 * DISTANCE / 5, 0.0, 48.0], [0.0, 2.0 * DISTANCE / 5, 48.0], [0.0, 0.0, 1.0]]])
    image, far = torch.full((1, 96, 96, 3), 0.2), torch.full((1, 96, 96), DISTANCE + 100.0)
    bright: Lenses = replace(lenses, brightness=5.0, window=np.array([0.0, 0.0, 1.0, 1.0]))
    light = light_from((0.0, -0.5, -1.0))
    seen = look_through(image, far, bright, points, light, K)
    changed = (seen - image).abs().amax(dim=-1)[0] > 1e-6
    eyes = (template.landmarks(template.vertices)[36:48] @ turn.T + torch.tensor([0.0, 0.0, DISTANCE])) @ K[0].T
    column, row = (eyes[:, :2] / eyes[:, 2:]).long().T
    assert changed[row, column].all()
    assert 0.02 < changed.float().mean() < 0.4 and not changed[:20].any() and not changed[70:].any()
    assert (mirrored(bright, light, points) > mirrored(replace(bright, brightness=0.0), light, points)).all()
    assert (seen[0][changed] > 0.2 * torch.from_numpy(bright.transmission).float()).all()
    hidden = look_through(image, torch.full((1, 96, 96), 100.0), bright, points, light, K)
    torch.testing.assert_close(hidden, image)
