"""A model's people as sliders in standard deviations."""

import torch

from fmlfast.model.fml import FML
from fmlfast.visualization.viewer.people import Population, principal_directions
from tests.helpers.small_model import SMALL


def small_model() -> FML:
    torch.manual_seed(0)
    model = FML(SMALL)
    generator = torch.Generator().manual_seed(1)
    count = len(model.code_mean)
    model.code_mean.copy_(torch.randn(count, generator=generator))
    model.code_factor.copy_(torch.randn(count, count, generator=generator))
    return model.eval()


def test_directions_are_independent_and_the_largest_come_first() -> None:
    effects = torch.randn(6, 40, generator=torch.Generator().manual_seed(2))
    rows = principal_directions(effects)
    torch.testing.assert_close(rows @ rows.T, torch.eye(6), atol=1e-5, rtol=0)
    changes = rows @ effects
    gram = changes @ changes.T
    torch.testing.assert_close(gram, gram.diagonal().diag(), atol=1e-3, rtol=0)
    assert bool((gram.diagonal().diff() < 0).all())


def test_deviations_have_the_covariance_of_the_training_people() -> None:
    model = small_model()
    people, size = Population.of(model), SMALL.identity_dim
    covariance = model.code_factor.T @ model.code_factor
    found = people.identity.T @ people.identity
    torch.testing.assert_close(found[:size, :size], covariance[:size, :size], atol=1e-3, rtol=1e-4)
    assert model.shape_fit is not None
    rest = torch.eye(model.shape_fit.count)  # the landmark fit's prior
    torch.testing.assert_close(found[size:, size:], rest, atol=1e-4, rtol=0)
    torch.testing.assert_close(found[:size, size:], torch.zeros(size, len(rest)), atol=1e-3, rtol=0)
    reflectances = people.reflectance.T @ people.reflectance
    torch.testing.assert_close(reflectances, covariance[size:, size:], atol=1e-3, rtol=1e-4)


def test_the_tone_slider_sets_the_mean_colour_of_the_face() -> None:
    model = small_model()
    people = Population.of(model)
    face = model.template.regions["face"] / model.template.regions["face"].sum()
    identity, reflectance = torch.zeros(len(people.identity)), 0.1 * torch.ones(len(people.reflectance))
    shades = []
    for lightness, warmth in ((0.1, 0.0), (0.9, 0.0), (0.5, 1.0), (0.5, -1.0)):
        codes = people.codes(model, identity, reflectance, lightness, warmth)
        with torch.no_grad():
            color = face @ model.reflectance(codes)[0]
        torch.testing.assert_close(color.log(), people.tone(lightness, warmth), atol=1e-3, rtol=0)
        shades.append(color)
    dark, light, warm, cool = shades
    assert float(light.mean()) > 3 * float(dark.mean())
    assert float(warm[0] / warm[2]) > float(cool[0] / cool[2])


def test_nought_is_the_mean_person() -> None:
    model = small_model()
    people = Population.of(model)
    codes = people.codes(model, torch.zeros(len(people.identity)), torch.zeros(len(people.reflectance)), 0.5, 0.0)
    torch.testing.assert_close(codes.identity[0, : SMALL.identity_dim], model.code_mean[: SMALL.identity_dim])
    assert not codes.identity[0, SMALL.identity_dim :].any() and 0 < people.usual < 1
