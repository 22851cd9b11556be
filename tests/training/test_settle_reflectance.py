"""Reflectance continues smoothly beyond what photographs show of skin."""

import torch

from fmlfast.model.fml import FML
from fmlfast.model.vertex_weights import rim_distance
from fmlfast.training.settle import settle_reflectance
from tests.helpers.small_model import SMALL


def test_a_cap_of_hair_becomes_skin_and_the_face_stays() -> None:
    model = FML(SMALL)
    template, face = model.template, model.face
    scalp, seen = template.regions["scalp"] > 0.99, model.shown > 0.99
    with torch.no_grad():
        learned = face.reflectance_mean.view(-1, 3)
        learned[model.shown > 0] *= 0.8
        learned[scalp] = 0.02
    before = face.reflectance_mean.detach().view(-1, 3).clone()
    settle_reflectance(model)
    after = face.reflectance_mean.detach().view(-1, 3)
    inner = seen & (template.regions["lids"] < 0.01)
    assert (after - before)[inner].abs().median() < 1e-3
    ratio = after[scalp].mean(0) / template.colors[scalp].mean(0)
    torch.testing.assert_close(ratio, torch.full((3,), 0.8), atol=0.05, rtol=0)


def test_rims_of_eyes_and_lips_get_the_color_around_them() -> None:
    model = FML(SMALL)
    template, face = model.template, model.face
    rim = rim_distance(template) < 3.0
    with torch.no_grad():
        face.reflectance_mean.view(-1, 3)[rim] = 0.9  # eyeballs and teeth, which pictures mix with skin
    settle_reflectance(model)
    ratio = face.reflectance_mean.detach().view(-1, 3)[rim] / template.colors[rim]
    assert rim.sum() > 300 and (ratio - 1).abs().mean() < 0.03


def test_modes_of_the_basis_reach_ears_and_neck_without_a_seam() -> None:
    model = FML(SMALL)
    template, face = model.template, model.face
    seen = model.shown > 0
    basis = face.reflectance_basis.detach()[:, : 3 * len(seen)].view(len(face.reflectance_basis), -1, 3)
    with torch.no_grad():
        basis.copy_(seen[None, :, None] * 0.1)
    settle_reflectance(model)
    ears = template.regions["ears"] > 0.9
    assert (basis[:, ears] > 0.05).all()
    bag = template.regions["mouth_bag"] > 0.99
    assert (basis[:, bag].abs() < 0.11).all()
