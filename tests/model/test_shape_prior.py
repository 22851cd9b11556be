"""How people vary, learned from landmarks, against crowds whose variation is known."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fmlfast.data.frames import Frames
from fmlfast.data.loader import ClipDataset
from fmlfast.kernels.deform import skin_displacements
from fmlfast.metrics import vertex_error
from fmlfast.model.fml import FML
from fmlfast.model.gp_basis import smooth_fields, sort_modes_by_face_motion
from fmlfast.model.landmark_fit import InitialFit, LandmarkFit, LandmarkObservations
from fmlfast.model.landmark_pose import fit_pose
from fmlfast.model.shape_prior import learn_shape_prior
from fmlfast.training.priors import some_clips
from tests.helpers.landmark_scenes import FACE, FIELDS, TEMPLATE, USED, geometry, seen, sparse
from tests.helpers.small_model import SMALL

JAW = TEMPLATE.expression_names.index("jawOpen")
PEOPLE, FRAMES, WAYS = 96, 2, 6  # the crowd varies in so many ways, each twice as much as expected


def crowd(seed: int, people: int = PEOPLE) -> tuple[Tensor, LandmarkObservations]:
    """Faces [F, V, 3] with mouths half open, and noisy landmarks of them."""
    generator = torch.Generator().manual_seed(seed)
    smooth = torch.zeros(people, len(FIELDS))
    smooth[:, 5 : 5 + WAYS] = 2 * torch.randn(people, WAYS, generator=generator)
    expression = torch.zeros(people * FRAMES, len(TEMPLATE.expressions))
    expression[:, JAW] = 0.5
    faces = geometry(smooth, expression)
    landmarks, Ks = seen(faces)
    landmarks = landmarks + 0.4 * torch.randn(landmarks.shape, generator=generator)
    return faces, sparse(landmarks, Ks, people)


def start(people: LandmarkObservations, fields: Tensor, usual: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Shapes in terms of FIELDS [B, 60] and expressions."""
    fit = LandmarkFit(TEMPLATE, len(fields))
    fit.set_fields(fields, torch.zeros_like(fields[0]))
    if usual is not None:
        fit.usual = usual
    pose = fit_pose(people.landmarks, people.Ks, TEMPLATE.landmarks(TEMPLATE.vertices)[USED])
    found = fit(people, InitialFit(*pose))
    assert found.smooth is not None and found.expression is not None
    return torch.linalg.lstsq(FIELDS.T, (found.smooth @ fields).T, driver="gelsd").solution.T, found.expression


def test_it_finds_how_a_crowd_varies() -> None:
    fields, mean, usual = learn_shape_prior(TEMPLATE, FIELDS, [crowd(0)[1], crowd(1)[1]], False)
    truth, people = crowd(2)

    def error(*prior: Tensor) -> Tensor:
        return vertex_error(geometry(*start(people, *prior)), truth, FACE).mean()

    assert error(fields, usual) < 0.85 * error(FIELDS)
    variance = torch.linalg.lstsq(FIELDS.T, fields.T, driver="gelsd").solution.square().sum(1)  # [60]
    others = torch.cat([variance[:5], variance[5 + WAYS :]])
    assert variance[5 : 5 + WAYS].mean() > 1.6 * others.mean()
    assert not mean.any() and usual[JAW] > 0.25 and usual[JAW] == usual.max()


def test_few_people_hardly_change_it() -> None:
    few, many = (learn_shape_prior(TEMPLATE, FIELDS, [crowd(0, people)[1]], True) for people in (2, PEOPLE))
    kernel = FIELDS.T @ FIELDS
    change, whole = ((prior.smooth.T @ prior.smooth - kernel).norm() for prior in (few, many))
    assert change < 0.25 * whole
    assert few.expression.max() < 0.25 * many.expression.max()


def test_broken_landmarks_are_left_out() -> None:
    people = crowd(0, 8)[1]
    for broken in (torch.nan, torch.inf, 1e12):
        people.landmarks[0, 3] = broken
        learned = learn_shape_prior(TEMPLATE, FIELDS, [people], True)
        assert all(part.isfinite().all() for part in learned)


def test_padding_does_not_count(frames: Frames) -> None:
    frames = replace(frames, mask=frames.mask & (torch.arange(4) < 3))
    seen = LandmarkObservations.of(frames)
    assert seen.subjects == len(frames.mask) and seen.landmarks.shape == (frames.mask.numel(), 66, 2)
    assert ((seen.confidence > 0).any(1) == frames.mask.flatten()).all()


def test_by_effect_turns_fields_without_changing_what_they_draw() -> None:
    turned = sort_modes_by_face_motion(FIELDS, TEMPLATE)
    kernel = FIELDS.T @ FIELDS
    torch.testing.assert_close(turned.T @ turned, kernel, atol=1e-4 * float(kernel.max()), rtol=0)
    moved = skin_displacements(turned.view(60, -1, 3), TEMPLATE.skin_indices, TEMPLATE.skin_weights)
    effect = (moved.square().sum(2) * FACE).sum(1)
    assert (effect[:-5] > 0.9 * effect[5:]).all() and effect[:20].sum() > 0.7 * effect.sum()
    first = skin_displacements(FIELDS.view(60, -1, 3), TEMPLATE.skin_indices, TEMPLATE.skin_weights)[:20]
    assert effect[:20].sum() > 1.1 * (first.square().sum(2) * FACE).sum()


def test_a_model_keeps_what_it_learned(tmp_path: Path, frames: Frames) -> None:
    model = FML(SMALL).eval()
    plain = model.observe(frames).start
    model.learn_shape_prior([LandmarkObservations.of(frames)])
    learned = model.observe(frames).start
    model.save(tmp_path)
    again = FML.load(tmp_path).observe(frames).start
    assert plain is not None and learned is not None and again is not None
    assert plain.smooth is not None and learned.smooth is not None and again.smooth is not None
    torch.testing.assert_close(again.smooth, learned.smooth, atol=1e-5, rtol=0)
    assert (learned.smooth - plain.smooth).abs().max() > 0.01
    with pytest.raises(ValueError, match="shape_init"):
        FML(replace(SMALL, shape_init=False)).learn_shape_prior([LandmarkObservations.of(frames)])


def test_clips_are_drawn_from_all(synthetic_folder: Path) -> None:
    clips = ClipDataset(synthetic_folder, "train", SMALL.image_size, 0)
    every = Frames.whole([clips[i] for i in range(len(clips))]).images
    for most, sizes in ((4, [3, 1]), (99, [3, len(clips) - 3])):
        batches = [frames.images for frames in some_clips(clips, most, batch=3)]
        assert [len(images) for images in batches] == sizes
        same = (torch.cat(batches)[:, None] == every).flatten(2).all(2)
        chosen = same.nonzero()[:, 1].tolist()
        assert len(set(chosen)) == sum(sizes) and chosen != sorted(chosen)


def test_modes_are_the_same_on_every_machine() -> None:
    """Rounding differs between CPUs: signs of eigenvectors and the order of equal ones must not depend on it."""
    moved = TEMPLATE.nodes * (1 + 1e-6 * torch.randn(TEMPLATE.nodes.shape, generator=torch.Generator().manual_seed(0)))
    sorted_modes = [sort_modes_by_face_motion(smooth_fields(nodes, 60), TEMPLATE) for nodes in (TEMPLATE.nodes, moved)]
    torch.testing.assert_close(sorted_modes[1], sorted_modes[0], atol=0.05 * float(sorted_modes[0].abs().max()), rtol=0)
