"""Draws latent walks: what the learned identities and reflectances vary in, mode by mode."""

import torch
from torch import Tensor

from benchmarks.paper.figures_faces import TURN
from benchmarks.paper.figures_store import Figure
from benchmarks.paper.spaces import Space, identity_space, ordered, reflectance_space
from fmlfast.evaluation.protocol import evaluation_template
from fmlfast.model.fml import FML
from fmlfast.visualization.panels import heat, on_paper, portrait, tile

MODES = 4
STEPS = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)  # standard deviations


def walk(space: Space, mode: int) -> Tensor:
    """Walks from the mean by each of STEPS standard deviations along a mode: [7, V, 3]."""
    return space.mean + torch.tensor(STEPS, dtype=space.mean.dtype)[:, None, None] * space.basis[mode]


def walks(model: FML, size: int = 150, width: int = 120) -> Figure:
    """Draws the leading principal modes of identity and of reflectance over training people.

    Modes are those of the evaluated region; cells are `size` px high and cut to `width`.
    """
    own = model.template.to("cpu")
    measured = evaluation_template(own)
    shapes, colors = identity_space(model), reflectance_space(model)
    lines, labels, numbers = [], [], {}
    for name, space, template, unit, scale in (
        ("identity", shapes, measured, "mm", 1.0),
        ("reflectance", colors, own, "%", 100.0),
    ):
        face = template.regions["face"].double()
        space = ordered(space, face)
        squares = (space.basis.square().sum(-1) @ face) / face.sum()
        for mode in range(min(MODES, len(space.basis))):
            steps = walk(space, mode).float()
            if name == "identity":
                line = on_paper(*portrait(template, steps, steps[..., :0], size, TURN))
            else:
                line = heat(*portrait(template, template.vertices.expand_as(steps), steps.clamp(0, 1), size))
            left = (size - width) // 2
            lines.append(line[:, :, left : left + width])
            spread, share = scale * float(squares[mode].sqrt()), float(squares[mode] / squares.sum())
            labels.append(f"{name} {mode + 1}\n{spread:.2f} {unit} per sd\n{share:.0%} of variance")
            numbers[f"{name} {mode + 1}"] = {"spread": spread, "unit": unit, "variance_share": share}
    captions = ["mean" if step == 0 else f"{step:+g} sd" for step in STEPS]
    return Figure(
        "walks",
        "What the model has learned to vary",
        tile(torch.stack(lines), captions, labels),
        "Walks along the leading principal modes of identity (neutral geometry by the learned basis and the learned "
        "smooth fields) and of reflectance, from -3 to +3 standard deviations (sd) over training people; beside each, "
        "how far one standard deviation moves the evaluated region (root mean square, in mm or in % of full "
        "reflectance) and the mode's share of the variance there.",
        numbers,
    )
