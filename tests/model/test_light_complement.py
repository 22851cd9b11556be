"""Reflectance leaves to light what light can do."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fmlfast.kernels.blendshape import pad_columns
from fmlfast.kernels.normals import vertex_normals
from fmlfast.kernels.shading import sh_basis
from fmlfast.model.fml import FML
from tests.helpers.small_model import SMALL


@pytest.fixture
def model() -> FML:
    return FML(SMALL)


def shown(model: FML, rows: Tensor) -> Tensor:
    """What codes of 1 add to the mean reflectance [N, V, 3] where the basis holds `rows` [N, V, 3]."""
    basis = torch.zeros(SMALL.reflectance_dim, rows[0].numel())
    basis[: len(rows)] = rows.flatten(1)
    with torch.no_grad():
        model.face.reflectance_basis.copy_(pad_columns(basis))
        return model.face.reflectance(torch.eye(len(rows), SMALL.reflectance_dim)) - model.face.base_reflectance


def test_a_basis_cannot_do_what_light_does(model: FML) -> None:
    template = model.template
    light = torch.randn(4, 9, 3, generator=torch.Generator().manual_seed(0))
    lit = template.colors * (sh_basis(vertex_normals(template.vertices[None], template.triangles))[0] @ light)
    added = shown(model, lit)
    assert added.abs().max() < 1e-4 * lit.abs().max()
    plain = FML(replace(SMALL, light_complement=False))
    torch.testing.assert_close(shown(plain, lit), lit, atol=1e-5, rtol=1e-5)


def test_it_can_do_the_rest(model: FML) -> None:
    patch = torch.zeros_like(model.template.colors)
    mouth = model.template.landmarks(model.template.vertices)[48:60].mean(0)
    near = (model.template.vertices - mouth).norm(dim=1) < 15
    patch[near] = -0.2
    (added,) = shown(model, patch[None])
    assert added[near].mean() < 0.8 * -0.2
    assert added[~near].abs().mean() < 0.02


def test_the_average_colour_of_the_mean_face_is_the_templates(model: FML) -> None:
    face, colors = model.template.regions["face"], model.template.colors
    before = model.face.base_reflectance.detach().clone()
    torch.testing.assert_close(before, colors, atol=1e-6, rtol=1e-5)
    spots = 0.05 * torch.randn(colors.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.face.reflectance_mean.copy_(((colors + spots) * torch.tensor([2.0, 1.5, 0.7])).flatten())
        mean = model.face.base_reflectance
        alone = model.face.reflectance(torch.zeros(1, SMALL.reflectance_dim))[0]
    torch.testing.assert_close(face @ mean, face @ colors, atol=0, rtol=1e-5)
    torch.testing.assert_close(alone, mean, atol=1e-6, rtol=1e-5)
    difference = (mean - colors)[face > 0.5].flatten()
    assert torch.corrcoef(torch.stack([difference, spots[face > 0.5].flatten()]))[0, 1] > 0.9
