"""Linear shape spaces: the model's identities, PCA of scans, and how closely each can fit a shape."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fmlfast import metrics
from fmlfast.evaluate import evaluation_template
from fmlfast.kernels.deform import skin_displacements
from fmlfast.system import FML
from fmlfast.template import FaceTemplate


@dataclass(frozen=True)
class Space:
    """Shapes mean + c @ basis on V vertices, the strongest directions first; float64, mm."""

    mean: Tensor  # [V, 3]
    basis: Tensor  # [K, V, 3]

    def leading(self, count: int) -> "Space":
        """The same space with its first `count` directions only."""
        return Space(self.mean, self.basis[:count])


def identity_space(model: FML) -> Space:
    """Neutral faces of the model on the evaluation mesh, its orthogonal complement included, around the mean code.

    The directions are ordered by how much training subjects vary along them (the covariance of their codes).
    """
    template = evaluation_template(model.template)
    count = model.config.identity_dim
    factor = model.code_factor[:, :count].cpu()  # [K + Kr, K], a square root of the codes' covariance
    values, vectors = torch.linalg.eigh(factor.T.double() @ factor.double())
    directions = (values.clamp(min=0).sqrt() * vectors).T.float()  # [K, K]
    codes = torch.cat([model.code_mean[None, :count].cpu(), directions]).to(model.code_mean.device)
    with torch.no_grad():
        shapes = model.face.neutral(model.face.displacements(codes), template).cpu().double()
    return ordered(Space(shapes[0], shapes[1:] - template.vertices.double()))


def field_space(template: FaceTemplate, fields: Tensor, complement: Tensor) -> Space:
    """What smooth fields of the graph, [K, 3G] node-major, may move beside a complement [3G, r]; nothing learned."""
    fields = fields - (fields @ complement) @ complement.T
    moves = fields.view(len(fields), -1, 3).float()
    return Space(
        template.vertices.double(),
        skin_displacements(moves, template.skin_indices, template.skin_weights, "torch").double(),
    )


def pca(scans: Tensor, weights: Tensor, most: int, rounds: int = 3) -> Space:
    """The scan-based model: principal components of scans [S, V, 3] after generalised Procrustes alignment.

    weights [V] is the region that counts in alignment and variance; at most `most` components. The scans must be on one
    mesh. Vertices of weight 0 keep the mean.
    """
    aligned = scans.double()
    mean = aligned[0]
    for _ in range(rounds):
        aligned = metrics.similarity_align(aligned, mean.expand_as(aligned), weights).apply(aligned)
        mean = aligned.mean(0)
    root = weights.double().sqrt()[:, None]  # [V, 1]
    centred = ((aligned - mean) * root).flatten(1)  # [S, 3V]
    values, vectors = torch.linalg.eigh(centred @ centred.T)  # fewer scans than vertices
    kept = [i for i in reversed(range(len(values))) if values[i] > 1e-10 * values[-1]][:most]
    basis = (vectors[:, kept].T @ centred).view(len(kept), *mean.shape)
    return Space(mean, torch.where(root > 0, basis / root.clamp(min=1e-12), 0.0))


def ordered(space: Space) -> Space:
    """The same shapes with orthogonal directions, the one along which they move most first."""
    flat = space.basis.flatten(1)
    _, vectors = torch.linalg.eigh(flat @ flat.T)
    return Space(space.mean, (vectors.flip(1).T @ flat).view_as(space.basis))


def best_fit(space: Space, shapes: Tensor, weights: Tensor, rounds: int = 20) -> Tensor:
    """Mean distance in mm of the space's closest shape from each of shapes [N, V, 3] over the region weights [V]: [N].

    Alternates the similarity that lays the fitted shape onto the true one with least squares for the codes: both steps
    lower the squared distance, measured in the true shape's millimetres. No prior holds the codes.
    """
    used = weights > 0
    w, mean, truth = weights[used].double(), space.mean[used], shapes[:, used].double()
    root = (w / w.sum()).sqrt()[:, None]
    basis = (space.basis[:, used] * root).flatten(1)  # [K, 3V]
    # Orthonormal directions of the space; those that others span already drop out.
    values, vectors = torch.linalg.eigh(basis @ basis.T) if len(basis) else (basis.new_zeros(0), basis.new_zeros(0, 0))
    kept = values > 1e-10 * values.max() if len(values) else values.bool()
    directions = (vectors[:, kept] / values[kept].sqrt()).T @ basis  # [R, 3V]
    fitted = mean.expand_as(truth)
    for _ in range(rounds):
        place = metrics.similarity_align(fitted, truth, w)
        local = (truth - place.translation[:, None]) @ place.rotation / place.scale[:, None, None]
        codes = ((local - mean) * root).flatten(1) @ directions.T
        fitted = mean + (codes @ directions).view(len(truth), -1, 3) / root
    return metrics.vertex_error(fitted, truth, w)
