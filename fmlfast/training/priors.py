"""Fits priors to training clips: the shape prior before training (EM), the prior of codes after it."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fmlfast.data.frames import Frames
from fmlfast.data.loader import ClipDataset
from fmlfast.kernels.common.topology import unique_edges
from fmlfast.kernels.deform import skin_displacements
from fmlfast.model.fml import FML
from fmlfast.model.landmark_fit import LandmarkObservations
from fmlfast.model.vertex_weights import photometric_region

_UNSEEN = 1e-3  # mm^2
_SMOOTH, _FAR, _ROUNDS = 1e-2, 1e-6, 300  # of the continuation of reflectance


def fit_shape_prior(model: FML, clips: ClipDataset, most: int = 480) -> None:
    """Learns the shape prior and mean expression of the landmark fit from the points of at most `most` clips, by EM."""
    model.learn_shape_prior([LandmarkObservations.of(frames) for frames in _some(clips, most)])


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
    """Continues reflectance smoothly from where photographs show skin to scalp, ears and neck.

    There training learns hair, collars, or nothing. With w the weight of the photometric loss, each field f of the
    mean, as a ratio to the template's colours, and of the basis becomes the minimum over f' of
    sum_v w_v |f'_v - f_v|^2 + 0.01 sum_edges |f'_i - f'_j|^2, weakly drawn to 1 and 0 on parts that nothing shows.
    """
    face, template = model.face, model.template
    seen = photometric_region(template).double()
    learned = face.reflectance_mean.view(-1, 3) / template.colors.clamp(min=1e-3)
    basis = face.reflectance_basis[:, : learned.numel()].view(len(face.reflectance_basis), -1, 3)
    fields = torch.cat([learned - 1, basis.transpose(0, 1).flatten(1)], 1).double()  # [V, 3 + 3 Kr]
    smooth = _extend(fields, seen, unique_edges(template.triangles)).float()
    face.reflectance_mean.copy_(((1 + smooth[:, :3]) * template.colors).clamp(0, 1).flatten())
    basis.copy_(smooth[:, 3:].unflatten(1, (-1, 3)).transpose(0, 1))


def _extend(
    fields: Tensor,  # [V, C]
    weights: Tensor,  # [V]
    edges: Tensor,  # [N, 2]
) -> Tensor:  # [V, C]
    """Solves (W + 0.01 L + 1e-6) f' = W f by conjugate gradients, W the weights and L the graph's Laplacian."""
    first, second = torch.cat([edges, edges.flip(1)]).T
    share, size = fields.new_full((len(first),), _SMOOTH), (len(fields), len(fields))
    joined = torch.sparse_coo_tensor(torch.stack([first, second]), share, size, check_invariants=True).coalesce()
    diagonal = (weights + _FAR + torch.sparse.mm(joined, torch.ones_like(fields[:, :1]))[:, 0])[:, None]
    solution = fields * (weights > 0)[:, None]
    rest = weights[:, None] * fields - diagonal * solution + torch.sparse.mm(joined, solution)
    step = scaled = rest / diagonal
    energy = (rest * scaled).sum(0)
    for _ in range(_ROUNDS):
        image = diagonal * step - torch.sparse.mm(joined, step)
        length = energy / (step * image).sum(0).clamp(min=1e-300)
        solution, rest = solution + length * step, rest - length * image
        scaled, before = rest / diagonal, energy
        energy = (rest * scaled).sum(0)
        step = scaled + energy / before.clamp(min=1e-300) * step
    return solution


@torch.no_grad()
def fit_code_prior(model: FML, clips: ClipDataset, most: int = 512) -> None:
    """Fits refinement's Gaussian prior: mean and square root of the codes' covariance over training clips."""
    model.eval()
    codes = []
    for frames in _some(clips, most):
        seen = model.observe(frames.to(model.code_mean.device))
        found = model.codes(seen)  # without fitting light, which is not used
        codes.append(torch.cat([found.identity[:, : model.config.identity_dim], found.reflectance], 1))
    stacked = torch.cat(codes)
    share = len(stacked) / (len(stacked) + 32)  # the previous prior counts as 32 clips
    mean = torch.lerp(model.code_mean, stacked.mean(0), share)
    scatter = (stacked - mean).T @ (stacked - mean) / len(stacked)
    values, vectors = torch.linalg.eigh(torch.lerp(model.code_factor.T @ model.code_factor, scatter, share))
    spread = (values.clamp(min=0.0) + 2e-3 * values.max()).sqrt()
    model.code_mean.copy_(mean)
    model.code_factor.copy_(spread[:, None] * vectors.T)


def _some(clips: ClipDataset, most: int, batch: int = 32) -> Iterator[Frames]:
    """Yields batches of at most `most` clips, drawn at random, as neighbours often show one person."""
    drawn = torch.randperm(len(clips), generator=torch.Generator().manual_seed(0))[:most]
    for some in drawn.split(batch):
        yield Frames.whole([clips[i] for i in some.tolist()])
