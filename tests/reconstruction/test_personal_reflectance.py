from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fmlfast.camera import project
from fmlfast.data.frames import Frames
from fmlfast.model.codes import Codes
from fmlfast.model.config import ModelConfig
from fmlfast.model.fml import FML
from fmlfast.model.vertex_weights import rim_distance
from fmlfast.reconstruction.personal_reflectance import fit_detail
from fmlfast.renderer import vertex_normals
from fmlfast.template.face_template import FaceTemplate
from tests.helpers.small_model import SMALL
from tests.model.test_fit_light import painted, pictured, plain


def spot(model: FML, place: int, radius: float) -> Tensor:  # [V, 1]
    """A soft spot of 1 around landmark `place`, mm."""
    points = model.template.vertices
    middle = model.template.landmarks(points)[place]
    return torch.exp(-((points - middle).norm(dim=1) / radius).square())[:, None]


def with_spot(model: FML, codes: Codes, place: int, radius: float, share: float) -> Codes:
    """The codes with skin changed by the share `share` of its colour in a spot."""
    return replace(codes, detail=share * spot(model, place, radius) * model.pattern(codes))


@torch.no_grad()
@pytest.mark.parametrize(("place", "share"), [(19, -0.8), (57, 0.5), (33, -0.5)])  # a brow, a lip, a moustache
def test_what_the_model_does_not_know_comes_back_where_it_is(
    model: FML, frames: Frames, place: int, share: float
) -> None:
    start = plain(model, frames)
    truth = with_spot(model, start, place, 10.0, share)
    found = fit_detail(model, pictured(model, frames, truth), start)
    mask = spot(model, place, 10.0)
    change = found.detail / model.pattern(start)
    inside = (mask * change).sum(1) / mask.square().sum()  # [B, 3] least-squares strength of the spot
    away = (1 - mask).square() * model.template.regions["face"][:, None]
    beyond = (away * change.abs()).sum(1) / away.sum()
    assert (inside / share > 0.3).all() and (inside / share < 1.2).all()
    assert (beyond < 0.05).all()


@torch.no_grad()
def test_pixels_on_the_rims_of_eyes_and_lips_do_not_count(model: FML, frames: Frames) -> None:
    start = plain(model, frames)
    rim = rim_distance(model.template) < 3.5  # mm, less than a pixel at this size
    truth = replace(start, detail=-0.3 * rim[:, None] * model.pattern(start))
    found = fit_detail(model, pictured(model, frames, truth), start)
    seen = rim & (model.shown > 0)
    share = found.detail[:, seen].sum(1) / truth.detail[:, seen].sum(1)
    assert seen.sum() > 50 and float(share.abs().max()) < 0.1


@torch.no_grad()
def test_shape_pose_and_codes_keep_their_bits(model: FML, frames: Frames) -> None:
    start = plain(model, frames)
    found = fit_detail(model, frames, start)
    for name in ("identity", "reflectance", "rotation", "translation", "expression"):
        assert torch.equal(getattr(found, name), getattr(start, name)), name
    assert found.detail.shape == (len(frames.mask), len(model.template.vertices), 3)
    assert found.detail.abs().max() > 0.01
    again = fit_detail(model, frames, found)  # replaced, not added to
    assert torch.equal(again.detail, found.detail)


@torch.no_grad()
def test_what_no_frame_sees_stays_at_the_model(model: FML, frames: Frames) -> None:
    start = plain(model, frames)
    found = fit_detail(model, pictured(model, frames, with_spot(model, start, 30, 10.0, -0.5)), start)
    back = model.template.vertices[:, 2] < -90.0
    assert back.sum() > 50
    assert found.detail[:, back].abs().max() < 0.02


@torch.no_grad()
def test_light_has_no_share_in_the_detail(model: FML, frames: Frames) -> None:
    """Skin that differs from the model's by a gain and a shading direction only could as well be lit differently."""
    start = plain(model, frames)
    normals = vertex_normals(model.template.vertices[None], model.template.triangles)[0]
    change = 0.25 + 0.1 * normals[:, :1]
    truth = replace(start, detail=change * model.pattern(start))
    found = fit_detail(model, pictured(model, frames, truth), start)
    face = model.template.regions["face"][:, None]
    left = (face * (found.detail / model.pattern(start)).abs()).sum(1) / face.sum()
    assert (left < 0.05).all()


@torch.no_grad()
def test_sunglasses_do_not_become_skin(model: FML, frames: Frames) -> None:
    start = plain(model, frames)
    shown = pictured(model, frames, start)
    found = fit_detail(model, painted(model, shown, start, slice(36, 48), 4.0, 0.05), start)
    points, face = model.template.vertices, model.template.regions["face"]
    change = (found.detail / model.pattern(start)).mean(-1)  # [B, V]
    below, behind = face * (points[:, 1] < 0), face * ((points[:, 1] - 30).abs() < 5)
    plain_skin, hidden = ((change * place).sum(1) / place.sum() for place in (below, behind))
    assert (plain_skin.abs() < 0.06).all(), plain_skin
    assert (hidden > -0.3).all(), hidden  # the glasses are darker by .9


@torch.no_grad()
def test_a_highlight_in_one_of_the_frames_does_not_become_skin(model: FML, frames: Frames) -> None:
    start = plain(model, frames)
    shown = pictured(model, frames, start)
    glared = shown.images.clone()
    glared[:, 0] = painted(model, shown, start, slice(27, 31), 1.5, 1.0).images[:, 0]
    found = fit_detail(model, replace(shown, images=glared), start)
    nose = spot(model, 28, 8.0)
    lighter = (nose * found.detail / model.pattern(start)).sum(1) / nose.sum()
    assert lighter.abs().max() < 0.1


@torch.no_grad()
def test_the_reflectance_holds_under_a_second_light(model: FML, frames: Frames) -> None:
    """Fitted under one light, the face shows the person's pictures under another better than the model's skin does."""
    start = plain(model, frames)
    spots = sum(share * spot(model, place, 9.0) for place, share in ((19, -0.8), (24, -0.8), (51, 0.4), (8, -0.6)))
    truth = replace(start, detail=spots * model.pattern(start))
    found = fit_detail(model, pictured(model, frames, truth), start)
    sh = truth.sh.clone()
    sh[:, :, 1] *= -1.5
    second = pictured(model, frames, replace(truth, sh=sh))

    def error(codes: Codes) -> Tensor:
        relit = pictured(model, frames, model.fit_light(second, codes))
        return (relit.images - second.images).abs().mean((1, 2, 3, 4))

    assert (error(found) < 0.75 * error(start)).all()


@torch.no_grad()
def test_most_of_a_cast_shadow_does_not_become_skin(model: FML, frames: Frames) -> None:
    start = plain(model, frames)
    shown = pictured(model, frames, start)
    camera = model.camera_vertices(start).flatten(0, 1)
    middle = project(camera, frames.Ks.flatten(0, 1)).view(*start.sh.shape[:2], -1, 2)[..., 0].mean(2)
    columns = torch.arange(shown.images.shape[-1]) + 0.5
    shadow = torch.where(columns < middle[..., None], 0.7, 1.0)[:, :, None, None]  # of the sRGB values
    found = fit_detail(model, replace(shown, images=shown.images * shadow), start)
    change = (1 + found.detail / model.pattern(start)).log().mean(-1)
    sides = [model.template.regions["face"] * (side * model.template.vertices[:, 0] > 10) for side in (-1, 1)]
    left, right = ((change * side).sum(1) / side.sum() for side in sides)
    cast = 2.2 * -torch.tensor(0.7).log()  # of the linear values
    assert ((left - right).abs() < 0.4 * cast).all()


@torch.no_grad()
def test_padding_frames_and_other_subjects_change_nothing(model: FML, frames: Frames) -> None:
    padded = frames.only([0, 1, 0])
    padded.mask[:, 2] = False
    two = frames.only([0, 1])
    start = plain(model, padded)
    picked = replace(start, **{k: getattr(start, k)[:, :2] for k in ("rotation", "translation", "sh", "expression")})
    a, b = fit_detail(model, padded, start), fit_detail(model, two, picked)
    torch.testing.assert_close(a.detail, b.detail, atol=1e-4, rtol=1e-3)
    alone = fit_detail(model, two.select(slice(1, 2)), picked.select(slice(1, 2)))
    torch.testing.assert_close(alone.detail, b.detail[1:], atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_sharper_frames_get_a_finer_mesh(model: FML, frames: Frames) -> None:
    one = frames.only([0]).select(slice(0, 1))
    large = torch.nn.functional.interpolate(one.images[0], scale_factor=2.0, mode="bilinear")[None]
    sharp = replace(one, images=large, Ks=one.Ks * torch.tensor([2.0, 2.0, 1.0])[:, None])
    start = plain(model, one)
    found = fit_detail(model, sharp, start)
    fine = FaceTemplate.default(1)
    assert found.detail.shape[1] == len(fine.vertices)
    detail = model.pattern(found, fine) - model.pattern(start, fine)
    torch.testing.assert_close(detail, found.detail)
    coarse = model.pattern(found) - model.pattern(start)
    torch.testing.assert_close(coarse, found.detail[:, : len(model.template.vertices)])


def test_a_field_of_no_level_is_refused() -> None:
    mesh = FaceTemplate.default(1)
    with pytest.raises(ValueError, match="a field of 7 vertices is on no level"):
        mesh.on_level(torch.zeros(7, 3))
    base = torch.rand(len(FaceTemplate.default(0).vertices), 3)
    torch.testing.assert_close(mesh.on_level(base), mesh.subdivide(base))


def test_gradients_reach_codes_and_detail() -> None:
    torch.manual_seed(0)
    model = FML(ModelConfig(**vars(SMALL)))
    beta, detail = torch.randn(1, SMALL.reflectance_dim), torch.zeros(1, len(model.template.vertices), 3)
    for values in (beta, detail):
        values.requires_grad_()
    weights = torch.rand(1, len(model.template.vertices), 3)
    (model.face.reflectance(beta, detail) * weights).sum().backward()
    assert beta.grad is not None and detail.grad is not None
    assert beta.grad.abs().max() > 0
    torch.testing.assert_close(detail.grad, weights)
