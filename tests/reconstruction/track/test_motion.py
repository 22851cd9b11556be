"""Pose and expression of a person who is known, from points whose truth is known."""

from dataclasses import replace

import pytest
import torch

from fmlfast.camera import project
from fmlfast.data.frames import Frames
from fmlfast.data.mediapipe478 import NUM_POINTS
from fmlfast.model.codes import Codes
from fmlfast.model.fml import FML
from fmlfast.reconstruction.track import motion as module
from fmlfast.reconstruction.track.motion import FrameFit, PersonPoints, View, fit_frames
from fmlfast.rotation import axis_angle_from_rotation, rotation_from_axis_angle
from fmlfast.template.face_template import FaceTemplate
from tests.helpers.small_model import SMALL

Scene = tuple[FML, Frames, Codes, Codes]


def without_surface(template: FaceTemplate) -> FaceTemplate:
    """The template as a user's own head is, with landmarks but no surface points."""
    return replace(
        template,
        surface_triangles=template.surface_triangles[:0],
        surface_barycentrics=template.surface_barycentrics[:0],
    )


@pytest.fixture(params=["surface points", "landmarks alone"])
def scene(request: pytest.FixtureRequest, dense_frames: Frames) -> Scene:
    """A model, exact points of a person in four frames, the person, and the true pose and expression."""
    torch.manual_seed(0)
    template = FaceTemplate.default(0)
    dense = request.param == "surface points"
    model = FML(SMALL, template if dense else without_surface(template)).eval()
    frames = dense_frames.select(slice(0, 1))
    with torch.no_grad():
        person = model.encode(frames)
    noise = torch.Generator().manual_seed(1)
    turn = 0.08 * torch.randn(1, 4, 3, generator=noise)
    moved = (person.expression + 0.08 * torch.randn(person.expression.shape, generator=noise)).clamp(min=0)
    truth = replace(
        person,
        rotation=rotation_from_axis_angle(turn) @ person.rotation,
        translation=person.translation + 8 * torch.randn(1, 4, 3, generator=noise),
        expression=moved,
    )
    return model, shown(model, frames, truth, dense), person, truth


@torch.no_grad()
def shown(model: FML, frames: Frames, truth: Codes, dense: bool) -> Frames:
    camera, Ks = model.camera_vertices(truth).flatten(0, 1), frames.Ks.flatten(0, 1)
    template = FaceTemplate.default(0)
    marks = project(model.template.slide_landmarks(camera, Ks), Ks)
    surface = project(template.surface_points(camera, torch.arange(NUM_POINTS)), Ks)
    return replace(
        frames,
        landmarks=marks.view_as(frames.landmarks),
        confidence=torch.ones_like(frames.confidence),
        surface=surface.view_as(frames.surface),
        precision=torch.full_like(frames.precision, 4.0 if dense else 0.0),
        scores=torch.zeros_like(frames.scores),
    )


def fitted(scene: Scene) -> FrameFit:
    model, frames, person, _ = scene
    with torch.no_grad():
        points = PersonPoints(model, model.neutral(person)[0])
    smooth = person.identity[:, model.config.identity_dim :]
    return fit_frames(model, [frames], [View.alone()], person, smooth, points)


def test_the_pose_of_a_known_person_is_found(scene: Scene) -> None:
    _, _, _, truth = scene
    found = fitted(scene)
    turn = axis_angle_from_rotation(found.rotation @ truth.rotation[0].mT).norm(dim=1)
    assert turn.max() < 0.02  # radians
    assert (found.translation - truth.translation[0])[:, :2].abs().max() < 1.0  # mm
    assert (found.translation[:, 2] / truth.translation[0, :, 2] - 1).abs().max() < 0.02


def test_the_found_head_lies_on_the_points(scene: Scene) -> None:
    model, frames, person, truth = scene
    found = fitted(scene)
    codes = replace(person, rotation=found.rotation[None], translation=found.translation[None],
                    expression=found.expression[None])  # fmt: skip
    with torch.no_grad():
        seen, wanted = (
            project(model.template.landmarks(model.camera_vertices(c)[0]), frames.Ks[0])[:, 17:] for c in (codes, truth)
        )
    assert (seen - wanted).norm(dim=-1).mean() < 0.25  # px, of 64


def test_expressions_come_nearer_to_the_truth_than_the_encoder_s(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, _, truth = scene
    found = fitted(scene)
    monkeypatch.setattr(module, "STEPS", 0)
    started = fitted(scene)
    errors = [(fit.expression - truth.expression[0]).square().sum() for fit in (found, started)]
    assert errors[0] < 0.9 * errors[1]
    assert found.expression.min() >= 0


def test_information_is_symmetric_and_positive(scene: Scene) -> None:
    model, _, _, _ = scene
    information = fitted(scene).information
    size = 6 + model.num_expressions
    assert information.shape == (4, size, size)
    torch.testing.assert_close(information, information.mT, rtol=1e-3, atol=1e-2)
    assert torch.linalg.eigvalsh(information.double()).min() > 0
    deviation = information.double().inverse().diagonal(dim1=1, dim2=2).sqrt()
    assert (deviation[:, :3] < 0.2).all() and (deviation[:, 3:5] < 20).all()
    assert (deviation[:, 6:] <= module.SPREAD * 1.001).all()


def test_frames_do_not_depend_on_each_other(scene: Scene) -> None:
    model, frames, person, truth = scene
    together = fitted(scene)
    alone = fitted((model, frames.only([2]), person, truth))
    torch.testing.assert_close(alone.rotation[0], together.rotation[2], atol=1e-3, rtol=0)
    torch.testing.assert_close(alone.translation[0], together.translation[2], atol=0.3, rtol=0)


def test_a_wild_point_moves_little(scene: Scene) -> None:
    model, frames, person, truth = scene
    wild = replace(frames, landmarks=frames.landmarks.clone(), surface=frames.surface.clone())
    wild.landmarks[..., 45, :] += 12.0
    wild.surface[..., model.noise.picked[::20] if len(model.noise.picked) else [0], :] += 12.0
    calm, found = fitted(scene), fitted((model, wild, person, truth))
    assert axis_angle_from_rotation(found.rotation @ calm.rotation.mT).norm(dim=1).max() < 0.06


def test_a_frame_without_points_keeps_what_the_encoder_says(scene: Scene) -> None:
    model, frames, person, truth = scene
    blind = replace(
        frames, confidence=torch.zeros_like(frames.confidence), precision=torch.zeros_like(frames.precision)
    )
    found = fitted((model, blind, person, truth))
    assert all(values.isfinite().all() for values in vars(found).values())
