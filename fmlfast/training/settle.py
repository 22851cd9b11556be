"""Finishes a trained model: what no clip shows follows from what clips show, and the expression head learns on."""

import math

import torch
from torch import Tensor

from fmlfast.common.graph_laplacian import GraphLaplacian
from fmlfast.data.frames import Frames
from fmlfast.data.loader import ClipDataset
from fmlfast.kernels.common.topology import unique_edges
from fmlfast.kernels.deform import skin_displacements
from fmlfast.losses import expression_label_loss
from fmlfast.model.codes import expression_from
from fmlfast.model.fml import FML
from fmlfast.model.vertex_weights import rim_distance
from fmlfast.template.regions import smoothstep
from fmlfast.training.priors import some_clips

_UNSEEN = 1e-3  # mm^2
_SMOOTH, _FAR, _ROUNDS = 1e-2, 1e-6, 300  # of the continuation of reflectance
_RIM = 3.0, 5.0  # mm from eyeballs and teeth up to which nothing, and beyond which all, is learned from pictures
_HAIRLESS = 0.02  # share of the scalp from which colours are rather hair's
_HEAD_RATE = 1e-3  # the first learning rate of the expression head


def settle(model: FML, clips: ClipDataset) -> None:
    """Settles the learned mean face, the reflectance and the expression head, in evaluation mode."""
    model.eval()
    settle_mean(model)
    settle_reflectance(model)
    settle_expressions(model, clips)


@torch.no_grad()
def settle_mean(model: FML) -> None:
    """Takes out of the learned mean face what hardly moves the face region.

    No clip shows it, so training lets it drift: tens of millimetres at crown and neck. The learned change d of the
    fields' coefficients becomes the minimum of |A (d' - d)|^2 + 0.001 mm^2 |d'|^2, with A the root mean square
    displacement of the face region.
    """
    face, template = model.face, model.template
    if face.identity_mean is None:
        return
    fields = face.smooth.view(len(face.smooth), -1, 3)
    moved = skin_displacements(fields, template.skin_indices, template.skin_weights, model.backend)  # [N, V, 3]
    weights = template.regions["face"] / template.regions["face"].sum()
    rows = (moved * weights.sqrt()[:, None]).flatten(1).double()
    square = rows @ rows.T
    damping = _UNSEEN * torch.eye(len(rows), dtype=rows.dtype, device=rows.device)
    face.identity_mean.copy_(torch.linalg.solve(square + damping, square @ face.identity_mean.double()))


@torch.no_grad()
def settle_reflectance(model: FML) -> None:
    """Continues reflectance smoothly from where photographs show skin to scalp, ears, neck, and rims of eyes and lips.

    There training learns hair, collars, eyeballs, teeth, or nothing. With w the weight of the photometric loss, 0 where
    hair begins and at the rims, each field f of the mean, as a ratio to the template's colours, and of the basis
    becomes the minimum over f' of sum_v w_v |f'_v - f_v|^2 + 0.01 sum_edges |f'_i - f'_j|^2, weakly drawn to 1 and 0 on
    parts that nothing shows.
    """
    face, template = model.face, model.template
    clear = smoothstep(rim_distance(template), *_RIM)
    seen = (model.shown * clear * (template.regions["scalp"] < _HAIRLESS)).double()
    learned = face.reflectance_mean.view(-1, 3) / template.colors.clamp(min=1e-3)
    basis = face.reflectance_basis[:, : learned.numel()].view(len(face.reflectance_basis), -1, 3)
    fields = torch.cat([learned - 1, basis.transpose(0, 1).flatten(1)], 1).double()  # [V, 3 + 3 Kr]
    laplacian = GraphLaplacian(unique_edges(template.triangles), len(seen))
    known, start = seen[:, None] * fields, (seen > 0)[:, None] * fields
    smooth = laplacian.solve(seen[:, None] + _FAR, _SMOOTH, known, start, _ROUNDS).float()
    face.reflectance_mean.copy_(((1 + smooth[:, :3]) * template.colors).clamp(0, 1).flatten())
    basis.copy_(smooth[:, 3:].unflatten(1, (-1, 3)).transpose(0, 1))


def settle_expressions(model: FML, clips: ClipDataset, most: int = 4096, steps: int = 2000, batch: int = 256) -> None:
    """Trains the encoder's expression head on, alone, on the labelled frames of at most `most` clips.

    Training shows few people a step and normalises by them, which the absolute error of expressions suffers from. Here
    the rest of the encoder is fixed, so that its outputs are computed once and steps are cheap. Does nothing for models
    without a landmark fit and for clips without labels.
    """
    head = model.encoder.expression_out
    if head is None or model.shape_fit is None:
        return
    parts = [_labelled(model, frames.to(model.code_mean.device)) for frames in some_clips(clips, most)]
    aux, rest, began, labels = (torch.cat(some) for some in zip(*parts, strict=True))
    known = (model.noise.score > 0).float()
    if not len(aux):
        return
    optimizer = torch.optim.Adam(head.parameters(), betas=(0.9, 0.99))
    draws = torch.Generator().manual_seed(0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = _HEAD_RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        rows = torch.randint(len(aux), (batch,), generator=draws).to(aux.device)
        found = expression_from(began[rows], rest[rows] + head(aux[rows]))
        optimizer.zero_grad()
        expression_label_loss(found, labels[rows], known).mean().backward()
        optimizer.step()


@torch.no_grad()
def _labelled(model: FML, frames: Frames) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Computes what the expression head gets and what it adds to, and the labels, in the labelled frames.

    Returns normalised features [F, N], the other outputs [F, E], the landmark fit's expressions [F, E], labels [F, E].
    """
    seen, names = model.observe(frames), model.noise.score
    assert seen.aux_features is not None and seen.start is not None and seen.start.expression is not None
    head, aux = model.encoder.expression_out, model.encoder.normalise(seen.aux_features, seen.aux_mask)
    assert head is not None
    _, raw = model.encoder(seen.inputs, seen.mask, seen.aux_features, seen.aux_mask)
    rest = raw.flatten(0, 1)[:, -len(names) :] - head(aux)
    used = (frames.expression_known > 0).logical_and(frames.mask).flatten()
    labels = frames.expression_labels.flatten(0, 1)[:, names]
    return aux[used], rest[used], seen.start.expression[used], labels[used]
