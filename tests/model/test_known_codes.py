"""A person who is known: its codes and its shape are used as they are, and pose and expression still fit."""

from dataclasses import replace

import torch

from fmlfast.camera import project
from fmlfast.data.frames import Frames
from fmlfast.model.fml import FML
from fmlfast.model.landmark_fit import InitialFit, LandmarkFit
from fmlfast.rotation import FRONTAL
from tests.helpers.landmark_scenes import FIELDS, TEMPLATE, dense, geometry


@torch.no_grad()
def test_known_codes_are_used_as_they_are(model: FML, dense_frames: Frames) -> None:
    assert model.encoder.code_norm.running_mean is not None
    model.encoder.code_norm.running_mean.fill_(0.5)  # as after training; known codes are normalised already
    seen = model.observe(dense_frames)
    free = model.codes(seen)
    dim, learned = model.config.identity_dim, model.config.reflectance_dim
    known = torch.randn(2, dim + learned, generator=torch.Generator().manual_seed(0))
    found = model.codes(seen, known=known)
    torch.testing.assert_close(found.identity[:, :dim], known[:, :dim])
    torch.testing.assert_close(found.reflectance, known[:, dim:])
    assert not torch.allclose(found.expression, free.expression)  # the frames' branch knows them, too
    own = torch.cat([free.identity[:, :dim], free.reflectance], 1)
    torch.testing.assert_close(model.codes(seen, known=own).tensors(), free.tensors())


@torch.no_grad()
def test_frames_of_a_known_person_do_not_depend_on_each_other(model: FML, dense_frames: Frames) -> None:
    known = torch.zeros(1, model.config.identity_dim + model.config.reflectance_dim)
    one = dense_frames.select(slice(0, 1))
    smooth = torch.zeros(1, model.shape_fit.count)  # type: ignore[union-attr]
    together = model.codes(model.observe(one, smooth=smooth), known=known)
    alone = model.codes(model.observe(one.only([2]), smooth=smooth), known=known)
    torch.testing.assert_close(alone.rotation[:, 0], together.rotation[:, 2], atol=1e-4, rtol=0)
    torch.testing.assert_close(alone.expression[:, 0], together.expression[:, 2], atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_kept_shape_stays_and_poses_still_fit() -> None:
    smooth = torch.randn(1, 60, generator=torch.Generator().manual_seed(0))
    frames = 5
    expression = torch.zeros(frames, len(TEMPLATE.expressions))
    expression[2, 3] = 0.4
    vertices = geometry(smooth, expression)
    fit = LandmarkFit(TEMPLATE, 60)
    fit.set_fields(FIELDS, torch.zeros(FIELDS.shape[1]))
    seen = dense(vertices, 1)
    start = InitialFit(torch.tensor(FRONTAL).expand(frames, 3, 3), torch.tensor([[0.0, 0, 620]]).expand(frames, 3))
    kept = fit.fit(seen, start, steps=6, smooth=smooth).found
    torch.testing.assert_close(kept.smooth, smooth, rtol=0, atol=0)
    wrong = fit.fit(seen, start, steps=6, smooth=torch.zeros_like(smooth)).found
    torch.testing.assert_close(wrong.smooth, torch.zeros_like(smooth), rtol=0, atol=0)

    def error(found: InitialFit) -> torch.Tensor:
        assert found.smooth is not None and found.expression is not None
        camera = geometry(found.smooth, found.expression) @ found.rotation.mT + found.translation[:, None]
        ids = fit.noise.picked
        return (project(TEMPLATE.surface_points(camera, ids), seen.Ks) - seen.surface[:, ids]).norm(dim=-1).mean()

    assert error(kept) < 0.2 and error(wrong) < 3.0  # px of faces 64 px wide
    assert error(kept) < 0.3 * error(wrong)


@torch.no_grad()
def test_a_shape_that_was_fitted_is_kept_by_a_second_fit(model: FML, dense_frames: Frames) -> None:
    start = model.observe(dense_frames).start
    assert start is not None and start.smooth is not None
    again = model.observe(dense_frames, smooth=start.smooth).start
    assert again is not None and again.smooth is not None
    torch.testing.assert_close(again.smooth, start.smooth, rtol=0, atol=0)
    moved = model.observe(replace(dense_frames, surface=dense_frames.surface * 1.02), smooth=start.smooth).start
    assert moved is not None and moved.smooth is not None
    torch.testing.assert_close(moved.smooth, start.smooth, rtol=0, atol=0)
    assert not torch.allclose(moved.translation, again.translation)
