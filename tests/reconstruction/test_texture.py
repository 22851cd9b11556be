"""A texture painted on the mean face, rendered, comes back."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from fmlfast.camera import project
from fmlfast.color import linear_to_srgb, srgb_to_linear
from fmlfast.data.crop import assumed_K
from fmlfast.model.lighting import ambient_factor
from fmlfast.reconstruction.texture import Texture, bake_texture
from fmlfast.reconstruction.texture_atlas import TextureAtlas
from fmlfast.reconstruction.texture_consensus import sample_places
from fmlfast.rotation import FRONTAL, rotation_from_axis_angle
from fmlfast.template.face_template import FaceTemplate
from fmlfast.template.regions import smoothstep
from fmlfast.visualization.appearance import TextureAlbedo, flat_light, render_face

SIZE, SIDE = 256, 300  # texels, pixels
SKIN = (0.42, 0.25, 0.18)  # linear
LEFT = torch.tensor([1.0, 0.35, -0.1, -0.4, 0.0, 0.0, 0.0, 0.0, 0.0])  # lights, the same for all channels
RIGHT = torch.tensor([0.9, -0.3, -0.25, -0.3, 0.05, 0.0, 0.0, 0.0, 0.05])
MOLE = (-32.0, -18.0)  # mm, on the right cheek


@cache
def template() -> FaceTemplate:
    return FaceTemplate.default(0)


@cache
def atlas() -> TextureAtlas:
    found = TextureAtlas.of(template(), SIZE)
    assert found is not None
    return found


@cache
def places() -> Tensor:
    """Position of every texel on the mean face, [3, S, S] mm."""
    return atlas().grid(atlas().interpolate(template().vertices))


@cache
def painted() -> np.ndarray:
    """Skin with fine and coarse patterns, red lips and a mole, [S, S, 3] uint8 sRGB."""
    x, y, _ = places()
    waves = 0.08 * torch.sin(x / 3.0) * torch.cos(y / 4.0) + 0.1 * torch.sin(x / 40.0 + y / 50.0)
    lips = atlas().grid(atlas().interpolate(template().regions["lips"][:, None]))
    color = torch.tensor(SKIN)[:, None, None] * (1 + waves) * (1 - lips * torch.tensor([0.1, 0.5, 0.45])[:, None, None])
    distance = (x - MOLE[0]).hypot(y - MOLE[1]) + 1e3 * (places()[2] < -40)
    color = color * (1 - 0.6 * (1 - smoothstep(distance, 2.0, 3.0)))
    inside = torch.zeros(SIZE**2, dtype=torch.bool)
    inside[atlas().places] = True
    color = torch.where(inside.view(SIZE, SIZE), color, torch.tensor(SKIN)[:, None, None])
    return (linear_to_srgb(color) * 255).round().byte().permute(1, 2, 0).numpy()


def posed(turn: float) -> tuple[Tensor, Tensor]:
    """The mean face, turned by radians around the vertical, in the camera's frame, and the camera's K."""
    rotation = torch.tensor(FRONTAL) @ rotation_from_axis_angle(torch.tensor([0.0, turn, 0.0]))
    vertices = template().vertices @ rotation.T + torch.tensor([0.0, 0.0, 330.0])
    return vertices, torch.from_numpy(assumed_K(SIDE, SIDE)).float()


def photograph(turn: float, light: Tensor) -> np.ndarray:
    """A picture of the painted face, [SIDE, SIDE, 3] uint8 sRGB."""
    vertices, K = posed(turn)
    albedo = TextureAlbedo.of(template().uv, painted())
    sh = light[:, None].repeat(1, 3)
    ambient, solid = ambient_factor(template()), torch.ones(len(vertices))
    face = render_face(vertices, template().triangles, albedo, sh, ambient, solid, K, 0, 0, SIDE, SIDE)
    return (linear_to_srgb(face[..., :3] + 0.2 * (1 - face[..., 3:])) * 255).round().byte().numpy()


def bake(photos: list[np.ndarray], turns: list[float], lights: list[Tensor], **changes: object) -> Texture:
    surfaces, Ks = zip(*(posed(turn) for turn in turns), strict=True)
    sh = torch.stack([light[:, None].repeat(1, 3) for light in lights])
    flat = torch.tensor(SKIN).repeat(len(template().vertices), 1)
    options = {"size": SIZE} | changes
    baked = bake_texture(template(), photos, torch.stack(surfaces), torch.stack(Ks), sh, flat, **options)  # type: ignore[arg-type]
    assert baked is not None
    return baked


def difference(texture: Texture) -> np.ndarray:
    """Absolute difference from the painted texture, [S, S], sRGB 0..255."""
    return np.abs(texture.image.astype(float) - painted()).mean(-1)


@cache
def one() -> Texture:
    return bake([photograph(0.0, LEFT)], [0.0], [LEFT])


@cache
def three_views() -> tuple[list[np.ndarray], list[float], list[Tensor]]:
    turns, lights = [0.0, 0.6, -0.6], [LEFT, RIGHT, LEFT]
    return [photograph(turn, light) for turn, light in zip(turns, lights, strict=True)], turns, lights


@cache
def three() -> Texture:
    return bake(*three_views())


def test_a_texture_comes_back_from_one_and_better_from_three_photos():
    face = atlas().grid(atlas().interpolate(template().regions["face"][:, None]))[0].numpy() > 0.5
    flat = np.abs(linear_to_srgb(torch.tensor(SKIN)).numpy() * 255 - painted().astype(float)).mean(-1)
    errors = []
    for texture in (one(), three()):
        seen = face & (texture.confidence > 0.7)
        assert texture.image.dtype == np.uint8 and texture.image.shape == (SIZE, SIZE, 3)
        assert texture.confidence.shape == (SIZE, SIZE) and 0 <= texture.confidence.min()
        assert texture.confidence.max() <= 1
        errors.append((difference(texture)[seen].mean(), flat[seen].mean(), seen.sum()))
    assert errors[0][0] < 0.4 * errors[0][1] and errors[1][0] < 0.4 * errors[1][1]
    assert errors[1][2] > 1.1 * errors[0][2]
    assert difference(three())[face].mean() < difference(one())[face].mean()


def test_a_hand_in_one_of_three_photos_is_not_in_the_texture():
    photos, turns, lights = three_views()
    covered = [photo.copy() for photo in photos]
    covered[0][:, 170:200] = (40, 30, 25)
    texture = bake(covered, turns, lights)
    change = np.abs(texture.image.astype(float) - three().image).mean(-1)[three().confidence > 0.7]
    assert change.mean() < 2 and np.quantile(change, 0.99) < 16  # of 255; the bar is 110 darker


def test_a_mole_survives():
    x, y, z = places().numpy()
    distance = np.hypot(x - MOLE[0], y - MOLE[1]) + 1e3 * (z < -40)
    mole, around = distance < 1.5, (distance > 5) & (distance < 8)
    assert mole.sum() >= 2
    truth = painted()[around].mean() - painted()[mole].mean()
    for texture in (one(), three()):
        assert texture.image[around].mean() - texture.image[mole].mean() > 0.6 * truth


def test_a_frame_of_glasses_is_not_skin():
    vertices, K = posed(0.0)
    low = template().landmarks(vertices)[[41, 46], 1].mean() + 15  # mm, below the eyes
    row = int(project(torch.tensor([[[0.0, float(low), float(vertices[:, 2].amin()) + 15]]]), K[None])[0, 0, 1])
    photo = photograph(0.0, LEFT)
    photo[row : row + 2, 80:220] = (20, 20, 25)
    texture, line = bake([photo], [0.0], [LEFT]), painted().astype(float)
    pixels = atlas().grid(project((atlas().interpolate(vertices))[None], K[None])[0])
    on = ((pixels[1] > row) & (pixels[1] < row + 2) & (pixels[0] > 90) & (pixels[0] < 210)).numpy()
    on &= one().confidence > 0.7
    assert on.sum() > 30
    dark = (line - 20)[on].mean()
    assert np.abs(texture.image.astype(float) - one().image)[on].mean() < 0.15 * dark


def drawn_at(points: Tensor) -> np.ndarray:
    """Pixels of points [N, 3] on the mean face, model frame, in the picture straight from the front: [N, 2]."""
    _, K = posed(0.0)
    camera = points @ torch.tensor(FRONTAL).T + torch.tensor([0.0, 0.0, 330.0])
    return project(camera[None], K[None])[0].numpy()


def fringed(bottom: float, below: float = 1.0) -> np.ndarray:
    """The picture from the front with hair down to `bottom` mm above the brows, and darker below them."""
    marks = template().landmarks(template().vertices)
    brows = marks[17:27].mean(0)
    low, top = drawn_at(torch.stack([brows, brows + torch.tensor([0.0, bottom, 0.0])]))[:, 1].astype(int)
    photo = photograph(0.0, LEFT)
    linear = srgb_to_linear(torch.from_numpy(photo[low:] / 255).float())
    photo[low:] = (linear_to_srgb(linear * below) * 255).round().byte().numpy()
    photo[:top] = (45, 35, 30)
    return photo


def test_a_fringe_over_the_brows_is_not_skin():
    texture, (x, y, z) = bake([fringed(-4.0)], [0.0], [LEFT]), places().numpy()
    brows = template().landmarks(template().vertices)[17:27].mean(0).numpy()
    over = (y > brows[1] - 2) & (y < brows[1] + 8) & (np.abs(x) < 35) & (z > 0)
    assert over.sum() > 100
    change = np.abs(texture.image.astype(float) - one().image).mean(-1)[over]
    assert change.mean() < 12 and np.quantile(change, 0.95) < 25  # of 255; the hair is 80 darker


def test_where_hair_was_removed_is_no_line():
    texture, (x, y, z) = bake([fringed(10.0, below=0.75)], [0.0], [LEFT]), places().numpy()
    above = y - template().landmarks(template().vertices)[17:27, 1].mean().numpy()
    middle = (np.abs(x) < 20) & (z > 0)
    rows = np.array([texture.image[middle & (np.abs(above - height) < 2)].mean() for height in range(0, 32, 2)])
    sides = np.minimum(np.maximum.accumulate(rows), np.maximum.accumulate(rows[::-1])[::-1])
    assert (sides - rows).max() < 10  # of 255, how much darker a line is than both its sides


def test_thin_frames_of_glasses_between_eye_and_brow_are_not_skin():
    marks = template().landmarks(template().vertices)
    photo, lines = Image.fromarray(photograph(0.0, LEFT)), Image.new("L", (SIDE, SIDE))
    turns = torch.linspace(0, 2 * torch.pi, 40)
    rims = []
    for eye in (range(36, 42), range(42, 48)):
        circle = torch.stack([18 * turns.cos(), 13 * turns.sin() - 3, 0 * turns], 1)
        rims.append(drawn_at(marks[list(eye)].mean(0) + circle))
    inner = drawn_at(marks[[39, 42]] * torch.tensor([[0.75, 1.0, 1.0]]) + torch.tensor([0.0, -1.0, 0.0]))
    for points in (*rims, inner):
        for image, ink in ((photo, (205, 195, 190)), (lines, 255)):
            ImageDraw.Draw(image).line([tuple(p) for p in points.tolist()], fill=ink, width=1)
    vertices, K = posed(0.0)
    baked = [
        bake([picture], [0.0], [LEFT], size=4 * SIZE).image for picture in (np.array(photo), photograph(0.0, LEFT))
    ]
    fine = [image.reshape(SIZE, 4, SIZE, 4, 3).mean((1, 3)) for image in baked]
    pixels = atlas().grid(project(atlas().interpolate(vertices)[None], K[None])[0]).numpy()
    x, y = (pixels.clip(0, SIDE - 1)).astype(int)
    on = (np.array(lines)[y, x] > 0) & (one().confidence > 0.7)
    plain = np.array(photograph(0.0, LEFT)).astype(float)
    drawn = np.abs(np.array(photo) - plain).mean(-1)[y, x][on].mean()
    change = np.abs(fine[0] - fine[1]).mean(-1)[on]
    assert on.sum() > 60
    assert change.mean() < 0.15 * drawn


def test_eyes_behind_dark_lenses_are_the_models():
    marks = template().landmarks(template().vertices)
    photo = Image.fromarray(photograph(0.0, LEFT))
    for eye in (range(36, 42), range(42, 48)):
        reach = torch.tensor([[-26.0, 18.0, 0.0], [26.0, -20.0, 0.0]])
        corners = [tuple(corner) for corner in drawn_at(marks[list(eye)].mean(0) + reach).tolist()]
        ImageDraw.Draw(photo).ellipse(corners, fill=(35, 45, 40))
    texture, (x, y, z) = bake([np.array(photo)], [0.0], [LEFT]), places().numpy()
    eyes = marks[[37, 38, 40, 41, 43, 44, 46, 47]].numpy()
    near = np.min([np.hypot(x - eye[0], y - eye[1]) for eye in eyes], 0) + 1e3 * (z < -40) < 4
    assert near.sum() > 50
    change = np.abs(texture.image.astype(float) - one().image).mean(-1)[near]
    assert change.mean() < 12  # of 255; the lenses are 120 darker


def test_a_greenish_chin_becomes_skin():
    below = template().landmarks(template().vertices)[57, 1].item()
    rows = drawn_at(torch.tensor([[0.0, below - 3, 0.0], [0.0, below - 15, 0.0]]))[:, 1]
    share = torch.linspace(0, SIDE - 1, SIDE).sub(rows[0]).div(rows[1] - rows[0]).clamp(0, 1)[:, None, None]
    linear = srgb_to_linear(torch.from_numpy(photograph(0.0, LEFT) / 255).float())
    photo = (linear_to_srgb(linear * (1 - share * torch.tensor([0.25, 0.0, 0.0]))) * 255).round().byte().numpy()
    texture, (x, y, z) = bake([photo], [0.0], [LEFT]), places().numpy()
    chin = (y < below - 14) & (y > below - 26) & (np.abs(x) < 20) & (z > 0)
    redness = [
        srgb_to_linear(torch.from_numpy(image[chin] / 255).float()).log() @ torch.tensor([1.0, -0.5, -0.5])
        for image in (one().image, texture.image)
    ]
    assert (redness[0] - redness[1]).mean() < 0.6 * 0.29  # the logarithm of 1 / 0.75


def test_what_no_photo_shows_is_the_mirror_image():
    turned = bake([photograph(0.8, LEFT)], [0.8], [LEFT])
    mirror = atlas().mirror()
    assert mirror is not None
    confidence = torch.from_numpy(turned.confidence)
    seen_there = sample_places(confidence[None, None], mirror)[0, 0].numpy()
    image = torch.from_numpy(turned.image).permute(2, 0, 1).float()
    expected = sample_places(image[None], mirror)[0].permute(1, 2, 0).numpy()
    hole = (turned.confidence < 0.02) & (seen_there > 0.9)
    assert hole.sum() > 200
    assert np.abs(turned.image - expected)[hole].mean() < 5
    flat = linear_to_srgb(torch.tensor(SKIN)).numpy() * 255
    assert np.abs(turned.image - flat)[hole].mean() > 1.5 * np.abs(turned.image - expected)[hole].mean()


def test_a_face_relit_looks_as_under_that_light():
    vertices, K = posed(0.25)
    sh, solid = RIGHT[:, None].repeat(1, 3), torch.ones(len(vertices))
    ambient = ambient_factor(template())
    truth = photograph(0.25, RIGHT).astype(float)
    face = template().regions["face"]
    texture = TextureAlbedo.of(template().uv, one().image)
    window, covered = (
        render_face(vertices, template().triangles, texture, sh, ambient, opacity, K, 0, 0, SIDE, SIDE)
        for opacity in (solid, face)
    )
    mask = covered[..., 3].numpy() > 0.9
    shown = linear_to_srgb(window[..., :3]).numpy() * 255
    same = linear_to_srgb(srgb_to_linear(torch.from_numpy(photograph(0.25, LEFT) / 255).float())).numpy() * 255
    assert np.abs(shown - truth)[mask].mean() < 4 < np.abs(same - truth)[mask].mean()


def test_flat_light_shows_the_texture_itself():
    photo = photograph(0.0, flat_light()[:, 0])
    middle = SIDE // 2
    assert np.abs(photo[middle - 40 : middle, middle - 20 : middle + 20].mean((0, 1)) -
                  linear_to_srgb(torch.tensor(SKIN)).numpy() * 255).max() < 12  # fmt: skip


def test_the_same_photos_give_the_same_bits():
    again = bake([photograph(0.0, LEFT)], [0.0], [LEFT])
    np.testing.assert_array_equal(again.image, one().image)
    np.testing.assert_array_equal(again.confidence, one().confidence)


def test_a_face_outside_its_photo_gets_the_models_texture():
    vertices, K = posed(0.0)
    K = K.clone()
    K[0, 2] += 5000
    flat = torch.tensor(SKIN).repeat(len(vertices), 1)
    sh = LEFT[:, None].repeat(1, 3)[None]
    baked = bake_texture(template(), [np.zeros((90, 80, 3), np.uint8)], vertices[None], K[None], sh, flat, size=128)
    assert baked is not None and baked.confidence.max() == 0
    assert np.abs(baked.image - linear_to_srgb(torch.tensor(SKIN)).numpy() * 255).max() <= 1


def test_errors_are_named():
    photo = photograph(0.0, LEFT)
    for size in (0, 32, 8192, 100):
        with pytest.raises(ValueError, match=f"side must be a power of two from 64 to 4096 texels, got {size}"):
            bake([photo], [0.0], [LEFT], size=size)
    with pytest.raises(ValueError, match="2 photos, 1 meshes, 1 cameras and 1 lights"):
        bake([photo, photo], [0.0], [LEFT])


def test_a_template_whose_texels_are_shared_gets_no_texture():
    flat = torch.tensor(SKIN).repeat(len(template().vertices), 1)
    vertices, K = posed(0.0)
    folded = template().uv.clone()
    folded[:, 0] = (folded[:, 0] - 0.5).abs()
    for uv in (folded, torch.zeros_like(folded)):
        other = replace(template(), uv=uv)
        sh = LEFT[:, None].repeat(1, 3)[None]
        assert bake_texture(other, [photograph(0.0, LEFT)], vertices[None], K[None], sh, flat, size=64) is None
