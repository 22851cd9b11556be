"""Pictures of lit heads."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from fmlfast.color import linear_to_srgb, srgb_to_linear
from fmlfast.model.lighting import ambient_factor
from fmlfast.reconstruction.head import Head
from fmlfast.rotation import FRONTAL
from fmlfast.template.face_template import FaceTemplate
from fmlfast.visualization.appearance import TextureAlbedo, standard_light
from fmlfast.visualization.overlay import face_opacity, overlay
from fmlfast.visualization.viewer.drawing import STYLES, Camera, Style, draw, lit_mesh, of_style
from fmlfast.visualization.viewer.figure import Figure, plain_head
from fmlfast.visualization.viewer.stage import to_bytes
from fmlfast.visualization.viewer.through import Through, places_in

STILL = torch.zeros(3)


def seen_from(distance: float, size: int = 120) -> Camera:
    K = torch.tensor([[1.8 * size, 0, size / 2], [0, 1.8 * size, size / 2], [0, 0, 1]])
    return Camera(K, torch.tensor(FRONTAL), torch.tensor([0.0, 0.0, distance]), size, size)


def figure(level: int = 1) -> Figure:
    return Figure.of(plain_head(FaceTemplate.default(level)))


def neutral(shown: Figure) -> Tensor:
    return shown.placed(torch.zeros(len(shown.expressions)), torch.eye(3), STILL)


def drawn(shown: Figure, style: Style = "skin", camera: Camera | None = None, behind: float = 0.5, samples: int = 1):
    camera = camera or seen_from(600)
    paper = torch.full((camera.height, camera.width, 3), behind)
    return draw([lit_mesh(shown, neutral(shown), standard_light(), style)], camera, paper, samples)


def test_a_head_over_its_photo_is_the_overlay_of_the_reconstruction() -> None:
    template = FaceTemplate.default(1)
    photo = np.random.default_rng(0).integers(90, 140, (150, 120, 3), dtype=np.uint8)
    head = Head(template, template.vertices, template.colors)
    origin, camera = torch.tensor([9.0, -14.0, 560.0]), seen_from(560)
    wanted = overlay(
        photo,
        template.vertices @ torch.tensor(FRONTAL).T + origin,
        template.triangles,
        head.albedo(),
        standard_light(),
        ambient_factor(template),
        camera.K,
        face_opacity(template),
    )
    shown = Figure.of(head)
    mesh = lit_mesh(shown, neutral(shown), standard_light(), "skin", shown.overlaid)
    picture = to_bytes(Through(photo, camera.K, origin).draw([mesh], torch.zeros(150, 120, 3), 3))
    difference = np.abs(picture.astype(float) - wanted)
    assert difference.mean() < 0.2 and (difference.max(2) > 12).mean() < 0.002
    assert (np.abs(wanted.astype(float) - photo).max(2) > 12).mean() > 0.1  # and the photo alone is not


def test_albedo_has_no_light_and_clay_and_wireframe_no_colour() -> None:
    shown = figure()
    pictures = {style: drawn(of_style(shown, style, True), style)[0] for style in STYLES}
    face = (slice(40, 60), slice(50, 70))
    colorful = {style: float((p[face].amax(-1) - p[face].amin(-1)).mean()) for style, p in pictures.items()}
    assert colorful["skin"] > 0.03 and colorful["albedo"] > 0.03
    assert colorful["clay"] < 1e-5 and colorful["wireframe"] < 1e-5
    near = seen_from(300, 400)
    lined, clay = (drawn(of_style(shown, style, True), style, near)[0] for style in (STYLES[3], STYLES[2]))
    assert 0.02 < float((lined < 0.5 * clay).float().mean()) < 0.4  # lines
    lamp_side, other = pictures["skin"][58, 44], pictures["skin"][58, 76]
    assert float(lamp_side.mean()) > 1.3 * float(other.mean())
    torch.testing.assert_close(pictures["albedo"][58, 44], pictures["albedo"][58, 76], atol=0.05, rtol=0)


def test_the_nearer_of_two_heads_hides_the_other_and_depth_is_its_own() -> None:
    shown = figure(0)
    red, blue = (
        shown.recolored(torch.tensor(c).expand(len(shown.neutral), 3).contiguous()) for c in ([1.0, 0, 0], [0, 0, 1.0])
    )
    camera = seen_from(600)
    nothing, straight = torch.zeros(len(shown.expressions)), torch.eye(3)
    places = {100.0: red, -100.0: blue}
    for order in (places.items(), reversed(places.items())):
        meshes = [
            lit_mesh(f, f.placed(nothing, straight, torch.tensor([0.0, 0.0, z])), standard_light(), "albedo")
            for z, f in order
        ]
        picture, depth = draw(meshes, camera, torch.zeros(120, 120, 3))
        assert picture[60, 60, 0] > 0.9 and picture[60, 60, 2] < 0.1
        assert 470 < float(depth[60, 60]) < 500  # 600 - 100 and the nose
        assert torch.isinf(depth[2, 2])


def test_a_camera_inside_the_head_draws_without_projecting_what_is_behind_it() -> None:
    picture, _ = drawn(figure(0), camera=seen_from(-40))
    assert bool(picture.isfinite().all())


def test_samples_smooth_the_outline_only() -> None:
    rough, smooth = (drawn(figure(), "albedo", behind=1.0, samples=samples)[0] for samples in (1, 3))
    changed = ((rough - smooth).abs().amax(-1) > 0.1).float().mean()
    assert 0.002 < float(changed) < 0.12


def test_a_fine_texture_is_averaged_where_the_head_is_small() -> None:
    template = FaceTemplate.default(0)
    noise = np.random.default_rng(1).integers(0, 2, (512, 512, 1), dtype=np.uint8).repeat(3, 2) * 255
    shown = Figure.of(Head(template, template.vertices, template.colors, noise))
    assert [level.image.shape[1] for level in shown.albedo if isinstance(level, TextureAlbedo)] == [512, 256, 128, 64]
    whole, alone = (drawn(f, "albedo")[0][50:65, 50:70].std() for f in (shown, replace(shown, albedo=shown.albedo[:1])))
    assert float(whole) < 0.6 * float(alone)


def test_the_coarse_figure_is_the_coarser_template() -> None:
    fine, coarse = FaceTemplate.default(2), FaceTemplate.default(1)
    found = Figure.of(plain_head(fine)).coarse()
    assert torch.equal(found.triangles.long(), coarse.triangles.long())
    assert torch.equal(found.neutral, fine.vertices[: len(coarse.vertices)])
    assert (found.neutral - coarse.vertices).norm(dim=1).mean() < 0.3  # the same surface, a step nearer to its limit
    small = found.coarse()
    assert torch.equal(small.triangles.long(), FaceTemplate.default(0).triangles.long())
    assert small.coarse() is small
    assert found.expressions.shape == coarse.expressions.shape and len(found.albedo[0].attributes) == len(
        coarse.vertices
    )


def test_a_mesh_that_is_not_subdivided_stays_as_it_is() -> None:
    whole = figure(2)
    mixed = replace(
        whole,
        triangles=whole.triangles[torch.randperm(len(whole.triangles), generator=torch.Generator().manual_seed(0))],
    )
    assert mixed.coarse() is mixed


def test_a_placed_figure_is_posed_turned_and_moved() -> None:
    template = FaceTemplate.default(0)
    head = plain_head(template)
    weights = torch.zeros(len(template.expressions))
    weights[[3, 24]] = torch.tensor([0.5, 1.0])
    turn = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    found = Figure.of(head).placed(weights, turn, torch.tensor([1.0, 2, 3]))
    torch.testing.assert_close(found, head.posed(weights) @ turn.T + torch.tensor([1.0, 2, 3]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("copies", [1, 2])
def test_photos_fit_into_the_window_side_by_side(copies: int) -> None:
    for room in ((890, 800), (300, 700), (1000, 200)):
        places = places_in(720, 1280, *room, copies)
        assert len(places) == copies
        for left, top, width, height in places:
            assert left >= 0 and top >= 0 and left + width <= room[0] and top + height <= room[1]
            assert width / height == pytest.approx(720 / 1280, rel=0.02)
        assert places[0][3] == room[1] or places[0][2] >= room[0] // copies - 1
        assert all(a[0] + a[2] <= b[0] for a, b in zip(places, places[1:], strict=False))


def test_pictures_are_srgb() -> None:
    grey = torch.full((1, 1, 3), 0.5)
    assert to_bytes(srgb_to_linear(grey))[0, 0, 0] == 128
    assert to_bytes(linear_to_srgb(grey) * 0 + 0.214)[0, 0, 0] == pytest.approx(127, abs=1)
