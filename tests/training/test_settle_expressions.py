"""What is trained after all else: the expression head, alone."""

from dataclasses import replace
from pathlib import Path

import torch

from fmlfast.data.frames import ClipTensors, Frames
from fmlfast.data.loader import ClipDataset
from fmlfast.model.fml import FML
from fmlfast.training.settle import settle_expressions


def test_the_head_learns_labelled_expressions_and_nothing_else_changes(
    model: FML, dense_frames: Frames, detected_folder: Path
) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    start = model.encode(dense_frames)
    settle_expressions(model, ClipDataset(detected_folder, "train", 64, 0), steps=600, batch=24)
    found = model.encode(dense_frames)
    true = dense_frames.expression_labels[..., model.noise.score]
    assert (found.expression - true).abs().mean() < 0.6 * (start.expression - true).abs().mean()
    assert torch.equal(found.identity, start.identity) and torch.equal(found.rotation, start.rotation)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed and all(name.startswith("encoder.expression_out.") for name in changed)


class Unlabelled(ClipDataset):
    """As of real people."""

    def __getitem__(self, index: int) -> ClipTensors:
        clip = super().__getitem__(index)
        return replace(clip, expression_known=torch.zeros_like(clip.expression_known))


def test_clips_without_labels_leave_the_head_as_it_is(model: FML, detected_folder: Path) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    settle_expressions(model, Unlabelled(detected_folder, "train", 64, 0))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
