"""The face laid over its photo."""

import numpy as np
import torch

from fmlfast.camera import project
from fmlfast.data.crop import assumed_K
from fmlfast.renderer import render
from fmlfast.rotation import FRONTAL
from fmlfast.template.face_template import FaceTemplate
from fmlfast.visualization.appearance import VertexAlbedo, flat_light
from fmlfast.visualization.overlay import face_opacity, overlay


def test_overlay_covers_the_face_and_spares_the_rest(monkeypatch):
    monkeypatch.setattr("fmlfast.visualization.appearance.TILE", 57)  # pixels: several tiles, the last ones cut
    template = FaceTemplate.default(0)
    photo = np.random.default_rng(5).integers(0, 256, (301, 333, 3), dtype=np.uint8)
    camera = template.vertices @ torch.tensor(FRONTAL).T + torch.tensor([30.0, -10.0, 420.0])
    K = torch.from_numpy(assumed_K(333, 301)).float()
    green = torch.tensor([0.0, 1.0, 0.0]).repeat(len(camera), 1)
    solid = torch.ones(len(camera))
    result = overlay(photo, camera, template.triangles, VertexAlbedo(green), flat_light(), solid, K, solid)
    options = {"antialiased": False, "supersample": 3}
    mask = render(camera[None], template.triangles, green[None], torch.eye(4)[None], K[None], 301, 333, **options).mask[
        0
    ]
    assert 0.1 < float((mask == 1).float().mean()) < 0.9
    np.testing.assert_array_equal(result[mask == 0], photo[mask == 0])
    assert (result[mask == 1] == (0, 255, 0)).all()
    edge = (mask > 0) & (mask < 1)
    share = mask[edge][:, None].numpy()
    behind = ((photo[edge] / 255 + 0.055) / 1.055) ** 2.4  # near enough to sRGB above the darkest values
    expected = share * [0, 1, 0] + (1 - share) * behind
    shown = ((result[edge] / 255 + 0.055) / 1.055) ** 2.4
    assert np.abs(shown - expected).max() < 0.02


def test_overlay_shows_the_face_and_no_more_of_the_head():
    template = FaceTemplate.default(0)
    opacity = face_opacity(template)
    assert opacity.min() == 0 and opacity.max() == 1
    fine = face_opacity(FaceTemplate.default(1))
    assert (fine[: len(opacity)] - opacity).abs().mean() < 0.02
    assert ((fine > 0.1) & (fine < 0.9)).float().mean() > 0.02  # a soft edge
    for name in ("eyes", "lips", "mouth_bag", "brows", "lids"):
        assert opacity[template.regions[name] > 0.9].min() > 0.9, name
    for name in ("ears", "neck"):
        assert opacity[template.regions[name] > 0.9].max() < 0.1, name
    assert opacity[template.vertices[:, 1] > 105].max() == 0  # the skull, where hair is

    photo = np.random.default_rng(5).integers(0, 256, (301, 333, 3), dtype=np.uint8)
    camera = template.vertices @ torch.tensor(FRONTAL).T + torch.tensor([30.0, -10.0, 420.0])
    K = torch.from_numpy(assumed_K(333, 301)).float()
    green = torch.tensor([0.0, 1.0, 0.0]).repeat(len(camera), 1)
    solid = torch.ones(len(camera))
    result = overlay(photo, camera, template.triangles, VertexAlbedo(green), flat_light(), solid, K, opacity)
    x, y = project(template.landmarks(camera)[None], K[None])[0, 30].int().tolist()
    assert result[y, x].tolist() == [0, 255, 0]
    crown = project(camera[None], K[None])[0, template.vertices[:, 1].argmax()]
    x, y = crown.int().tolist()
    np.testing.assert_array_equal(result[y : y + 5, x], photo[y : y + 5, x])


def test_overlay_of_a_face_that_leaves_the_photo():
    template = FaceTemplate.default(0)
    photo = np.full((90, 120, 3), 200, np.uint8)
    K = torch.from_numpy(assumed_K(120, 90)).float()
    for shift, changed in ((150.0, True), (5000.0, False)):
        camera = template.vertices @ torch.tensor(FRONTAL).T + torch.tensor([shift, 0.0, 500.0])
        black = VertexAlbedo(torch.zeros_like(camera))
        solid = torch.ones(len(camera))
        result = overlay(photo, camera, template.triangles, black, flat_light(), solid, K, solid)
        assert (result != photo).any() == changed
        assert (result[:, 0] == photo[:, 0]).all()
