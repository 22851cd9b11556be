"""Faces with textures, shaded at every pixel."""

import numpy as np
import pytest
import torch

from fmlfast.color import srgb_to_linear
from fmlfast.renderer import sh_basis
from fmlfast.rotation import FRONTAL
from fmlfast.template.face_template import FaceTemplate
from fmlfast.visualization.appearance import (
    LAMP,
    LAMP_SHARE,
    TextureAlbedo,
    VertexAlbedo,
    flat_light,
    render_face,
    standard_light,
)


def test_the_standard_light_is_a_lambert_lobe_and_ambient_light():
    normals = torch.nn.functional.normalize(torch.randn(200, 3, generator=torch.Generator().manual_seed(1)), dim=1)
    cosine = normals @ torch.nn.functional.normalize(torch.tensor(LAMP), dim=0)
    expected = LAMP_SHARE * (0.25 + cosine / 2 + 5 / 32 * (3 * cosine**2 - 1)) + 1 - LAMP_SHARE
    for channel in (sh_basis(normals) @ standard_light()).T:
        torch.testing.assert_close(channel, expected, atol=1e-6, rtol=0)


def test_a_texture_is_looked_up_where_its_texels_are():
    image = np.random.default_rng(2).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    albedo = TextureAlbedo.of(torch.zeros(1, 2), image)
    row, column = 3, 12
    uv = torch.tensor([[(column + 0.5) / 16, 1 - (row + 0.5) / 16]])
    torch.testing.assert_close(albedo.lookup(uv)[0], srgb_to_linear(torch.from_numpy(image[row, column] / 255).float()))


@pytest.mark.parametrize("size", [32, 1024])
def test_a_smooth_texture_and_the_same_vertex_colours_look_alike(size):
    template = FaceTemplate.default(0)
    camera = template.vertices @ torch.tensor(FRONTAL).T + torch.tensor([0.0, 0.0, 420.0])
    K = torch.tensor([[180.0, 0, 50], [0, 180, 50], [0, 0, 1]])
    places = (torch.arange(size) + 0.5) / size
    u, v = places.expand(size, size), (1 - places)[:, None].expand(size, size)
    texture = TextureAlbedo(template.uv, torch.stack([0.2 + 0.6 * u, 0.2 + 0.6 * v, 0.5 + 0 * u]))
    uv = template.uv
    vertices = VertexAlbedo(torch.stack([0.2 + 0.6 * uv[:, 0], 0.2 + 0.6 * uv[:, 1], 0.5 + 0 * uv[:, 0]], 1))
    solid = torch.ones(len(camera))
    window = (3, 4, 90, 91)
    for light in (flat_light(), standard_light()):
        pictures = [
            render_face(camera, template.triangles, a, light, solid, solid, K, *window) for a in (texture, vertices)
        ]
        assert pictures[0].shape == (91, 90, 4) and 0.2 < pictures[0][..., 3].mean() < 0.95
        assert (pictures[0] - pictures[1]).abs().max() < 0.02


def test_a_fine_texture_is_averaged_in_a_small_picture():
    template = FaceTemplate.default(0)
    camera = template.vertices @ torch.tensor(FRONTAL).T + torch.tensor([0.0, 0.0, 420.0])
    K = torch.tensor([[60.0, 0, 16], [0, 60, 16], [0, 0, 1]])
    board = (torch.arange(1024)[:, None] + torch.arange(1024)) % 2
    texture = TextureAlbedo(template.uv, board.float().expand(3, -1, -1).contiguous())
    solid = torch.ones(len(camera))
    picture = render_face(camera, template.triangles, texture, flat_light(), solid, solid, K, 0, 0, 32, 32)
    inside = picture[..., 3] == 1
    assert inside.sum() > 100 and (picture[inside][:, :3] - 0.5).abs().max() < 0.05
