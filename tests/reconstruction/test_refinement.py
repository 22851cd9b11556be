from dataclasses import replace

import pytest
import torch

from fmlfast.camera import project
from fmlfast.color import linear_to_srgb
from fmlfast.data.frames import Frames
from fmlfast.losses import LossWeights, objective
from fmlfast.metrics import vertex_error
from fmlfast.model.codes import Codes
from fmlfast.model.face_model import _light_directions
from fmlfast.model.fml import FML
from fmlfast.model.gp_basis import smooth_fields
from fmlfast.reconstruction.focal_length import focal_factor, scale_focal
from fmlfast.reconstruction.refinement import REFINEMENT, refine
from fmlfast.renderer import render, shade_vertices
from fmlfast.rotation import rotation_from_axis_angle
from tests.helpers.small_model import SMALL

FREE = LossWeights(photometric=10.0, membrane=0.0, displacement=0.0, expression=1e-4, sparsity=0.0, reflectance=0.0)


def losses(model: FML, frames: Frames, codes: Codes, weights: LossWeights) -> torch.Tensor:  # [B]
    with torch.no_grad():
        return torch.stack(list(objective(model, frames.unlabelled(), codes, weights).values())).sum(0)


def pictured(model: FML, frames: Frames, codes: Codes) -> Frames:
    """The frames with what the model itself shows for `codes`: its pictures and its landmarks."""
    triangles, size = model.template.triangles, frames.images.shape[-1]
    camera, Ks = model.camera_vertices(codes).flatten(0, 1), frames.Ks.flatten(0, 1)
    colors, _ = shade_vertices(camera, triangles, model.face.occluded(model.reflectance(codes)), codes.sh.flatten(0, 1))
    picture = render(camera, triangles, colors, torch.eye(4).expand(len(Ks), 4, 4), Ks, size, size).image
    images = linear_to_srgb(picture).movedim(-1, 1).contiguous().view(frames.images.shape)
    marks = project(model.template.slide_landmarks(camera, Ks), Ks)
    known = torch.ones_like(frames.confidence)
    return replace(frames, images=images, landmarks=marks.view_as(frames.landmarks), confidence=known)


def disturbed(codes: Codes) -> Codes:
    noise = torch.Generator().manual_seed(0)
    draw = {name: torch.randn(value.shape, generator=noise) for name, value in vars(codes).items()}
    turn = rotation_from_axis_angle(0.05 * draw["translation"])
    return Codes(
        identity=codes.identity + 0.5 * draw["identity"],
        reflectance=codes.reflectance + 0.5 * draw["reflectance"],
        tone=codes.tone,
        detail=codes.detail,
        rotation=turn @ codes.rotation,
        translation=codes.translation * (1 + 0.02 * draw["translation"]),
        sh=codes.sh + 0.05 * draw["sh"],
        expression=(codes.expression + 0.05 * draw["expression"]).clamp(min=0),
    )


def learned(codes: Codes, model: FML) -> Codes:
    """The same codes without the smooth fields they started from."""
    return replace(codes, identity=codes.identity[:, : model.config.identity_dim])


@torch.no_grad()
def test_known_codes_are_found_again(frames: Frames) -> None:
    torch.manual_seed(0)
    model = FML(replace(SMALL, shape_init=False, light_fit=False)).eval()  # then landmarks have not told the answer
    encoded = model.encode(frames)
    truth = replace(encoded, identity=torch.cat([encoded.identity, torch.randn(len(frames.mask), 8)], 1))
    shown = pictured(model, frames, truth)
    start = replace(disturbed(truth), identity=encoded.identity)
    found = refine(model, shown, start, steps=100, weights=FREE, prior=0.0, expression=0.0)

    def seen(codes: Codes) -> torch.Tensor:
        return project(model.camera_vertices(codes).flatten(0, 1), frames.Ks.flatten(0, 1))

    def error(codes: Codes) -> torch.Tensor:  # [B] px; one camera does not tell distance from size
        return (seen(codes) - seen(truth)).norm(dim=-1).view(len(frames.mask), -1).mean(1)

    def neutral_error(codes: Codes) -> torch.Tensor:
        return (model.neutral(codes) - model.neutral(truth)).norm(dim=-1).mean(1)

    assert (error(found) < 0.3 * error(start)).all()
    assert (neutral_error(found) < 0.8 * neutral_error(start)).all()
    assert (losses(model, shown, found, FREE) < 0.2 * losses(model, shown, start, FREE)).all()


def test_the_prior_of_shape_and_expressions_lies_around_the_start(model: FML, frames: Frames) -> None:
    start = model.encode(frames)
    assert start.identity[:, model.config.identity_dim :].norm() > 1 and start.expression.norm() > 0.05
    held = refine(model, frames, start, steps=10, smooth=1e6, expression=1e6)
    torch.testing.assert_close(model.neutral(held), model.neutral(start), atol=0.5, rtol=0)  # mm
    torch.testing.assert_close(held.expression, start.expression, atol=0.02, rtol=0)
    free = refine(model, frames, start, steps=10, smooth=0.0, expression=0.0)
    moved, kept = ((model.neutral(codes) - model.neutral(start)).norm() for codes in (free, held))
    assert kept < 0.2 * moved and (free.expression - start.expression).norm() > 0.02


def test_no_subject_ends_worse_than_it_began(model: FML, frames: Frames) -> None:
    weights = replace(REFINEMENT, photometric=0.0)
    settled = refine(model, frames, model.encode(frames), steps=60, weights=weights, prior=0.0, smooth=0.0)
    again = refine(model, frames, settled, steps=3, weights=weights, prior=0.0, smooth=0.0)
    assert (losses(model, frames, again, weights) <= losses(model, frames, settled, weights) * (1 + 1e-5)).all()


def test_one_step_is_better_than_none(model: FML, frames: Frames) -> None:
    start = disturbed(model.encode(frames))
    after = refine(model, frames, start, steps=1)
    assert (losses(model, frames, after, REFINEMENT) < losses(model, frames, start, REFINEMENT)).all()


def test_a_subject_without_a_loss_stays_and_disturbs_no_other(model: FML, frames: Frames) -> None:
    start = model.encode(frames)
    broken = replace(frames, landmarks=frames.landmarks.clone())
    broken.landmarks[0] = torch.nan
    found, alone = refine(model, broken, start, steps=4), refine(model, frames, start, steps=4)
    rest = slice(1, None)
    torch.testing.assert_close(found.expression[0], start.expression[0])
    torch.testing.assert_close(found.select(rest).tensors(), alone.select(rest).tensors())
    assert not torch.allclose(alone.expression[1], start.expression[1])


def test_subjects_do_not_depend_on_each_other(model: FML, frames: Frames) -> None:
    start = model.encode(frames)
    together = refine(model, frames, start, steps=5)
    for i in range(len(frames.mask)):
        one = slice(i, i + 1)
        alone = refine(model, frames.select(one), start.select(one), steps=5)
        torch.testing.assert_close(alone.tensors(), together.select(one).tensors(), atol=1e-3, rtol=1e-3)


def test_padding_frames_change_nothing(model: FML, frames: Frames) -> None:
    padded = frames.only([0, 1, 0])
    padded.mask[:, 2] = False
    two = frames.only([0, 1])
    a, b = (refine(model, f, model.encode(f), steps=5) for f in (two, padded))
    torch.testing.assert_close(a.identity, b.identity, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(a.translation, b.translation[:, :2], atol=1e-2, rtol=1e-3)


def test_expressions_stay_positive_unless_signed(model: FML, frames: Frames) -> None:
    assert refine(model, frames, model.encode(frames), steps=10).expression.min() == 0


def test_model_and_start_are_left_alone(model: FML, frames: Frames) -> None:
    start = model.encode(frames)
    tensors = {k: v.clone() for k, v in model.state_dict().items()}
    codes = start.map(torch.clone)
    refine(model, frames, start, steps=2)
    assert all(torch.equal(tensors[k], v) for k, v in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(codes.tensors(), start.tensors(), strict=True))
    assert refine(model, frames, start, steps=0) is start


def test_bad_input_is_named(model: FML, frames: Frames) -> None:
    start = model.encode(frames)
    with pytest.raises(ValueError, match="steps must be 0 or more, got -1"):
        refine(model, frames, start, steps=-1)
    with pytest.raises(ValueError, match="do not belong to frames"):
        refine(model, frames.only([0]), start, steps=1)


def test_smooth_fields_show_what_the_learned_basis_cannot(model: FML, frames: Frames) -> None:
    noise = torch.Generator().manual_seed(1)
    start = learned(model.encode(frames).map(torch.detach), model)
    draw = 0.7 * torch.randn(len(frames.mask), len(model.face.smooth), generator=noise)
    draw[:, 30:] = 0.0
    truth = replace(start, identity=torch.cat([start.identity, draw], 1))
    shown = pictured(model, frames, truth)
    found = refine(model, shown, start, steps=30)
    assert found.identity.shape == (len(frames.mask), model.config.identity_dim + len(model.face.smooth))
    held = refine(model, shown, start, steps=30, smooth=1e6)

    def error(codes: Codes) -> torch.Tensor:
        face = model.template.regions["face"]
        return vertex_error(model.neutral(codes).detach(), model.neutral(truth), face)

    assert (error(found) < 0.75 * error(held)).all()
    again = refine(model, shown, found, steps=3)
    assert (losses(model, shown, again, REFINEMENT) <= losses(model, shown, start, REFINEMENT)).all()


def test_smooth_fields_are_draws_of_the_process() -> None:
    points = torch.tensor([[30.0, 0, 0], [-30.0, 0, 0], [30.0, 6, 0], [0.0, 90, 0], [0.0, 0, 0]])
    fields = smooth_fields(points, 15)
    covariance = (fields.T @ fields).view(5, 3, 5, 3)
    spread = covariance.diagonal(dim1=0, dim2=2).diagonal(dim1=0, dim2=1)  # [5, 3]
    torch.testing.assert_close(covariance[0, 0, 1, 0] / spread[0, 0], torch.tensor(-0.98), atol=0.1, rtol=0)
    torch.testing.assert_close(covariance[0, 1, 1, 1] / spread[0, 1], torch.tensor(0.98), atol=0.1, rtol=0)
    assert covariance[0, 2, 2, 2] > 0.8 * spread[0, 2] > 10 * covariance[0, 2, 3, 2].abs()
    assert covariance[0, 1, 0, 2] == 0
    assert spread[4, 0] < 0.2 < 2 * 2.5**2 * 0.9 < spread[4, 1]  # the middle does not move sideways
    assert (fields.norm(dim=1).diff() <= 1e-5).all()
    torch.testing.assert_close(smooth_fields(points, 4), fields[:4])


@torch.no_grad()
@pytest.mark.parametrize("wrong", [0.75, 1.0, 1.3])
def test_the_focal_length_is_found(model: FML, frames: Frames, wrong: float) -> None:
    shown = pictured(model, frames, model.encode(frames))
    factor = focal_factor(model, scale_focal(shown, torch.full((len(frames.mask),), wrong)))
    assert ((factor * wrong).log().abs() < 0.2).all()


@pytest.mark.gpu
def test_recorded_steps_give_what_steps_give(model: FML, frames: Frames, monkeypatch: pytest.MonkeyPatch) -> None:
    model, frames = model.to("cuda"), frames.to("cuda")
    start = model.encode(frames)
    recorded = refine(model, frames, start, steps=12)
    monkeypatch.setattr("fmlfast.reconstruction.refinement.CudaGraphs", lambda function, device: function)
    torch.testing.assert_close(
        recorded.tensors(), refine(model, frames, start, steps=12).tensors(), atol=1e-2, rtol=1e-2
    )


def test_what_freed_memory_held_decides_nothing(model: FML, frames: Frames) -> None:
    model.code_factor.normal_()
    start = model.encode(frames).map(torch.detach)

    def leave(value: int) -> None:
        for size in (8, 16, 32):  # words, of which LAPACK may be given some to work in
            _ = [torch.full((size,), value, dtype=torch.int32) for _ in range(500)]

    found = []
    for value in (0, 1):
        leave(value)
        fitted = _light_directions(model.template)
        leave(value)
        found.append([*fitted, *refine(model, frames, start, 1).tensors()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_known_person_is_left_as_it_is_while_its_frames_fit_better(model: FML, frames: Frames) -> None:
    start = disturbed(model.encode(frames))
    found = refine(model, frames, start, steps=8, person=False)
    for name in ("identity", "reflectance", "tone", "detail"):
        assert torch.equal(getattr(found, name), getattr(start, name))
    for name in ("rotation", "translation", "sh", "expression"):
        assert not torch.allclose(getattr(found, name), getattr(start, name))
    assert (losses(model, frames, found, REFINEMENT) < losses(model, frames, start, REFINEMENT)).all()
    assert found.expression.min() >= 0
