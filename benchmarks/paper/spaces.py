"""Builds linear shape spaces (the model's identities, PCA of scans) and fits them to shapes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fmlfast import metrics
from fmlfast.evaluation.protocol import evaluation_template
from fmlfast.kernels.deform import skin_displacements
from fmlfast.model.fml import FML
from fmlfast.template.face_template import FaceTemplate


@dataclass(frozen=True)
class Space:
    """Shapes mean + c @ basis on V vertices, the strongest directions first; float64, mm."""

    mean: Tensor  # [V, 3]
    basis: Tensor  # [K, V, 3]

    def leading(self, count: int) -> "Space":
        """The same space with its first `count` directions only."""
        return Space(self.mean, self.basis[:count])


def identity_space(model: FML) -> Space:
    """Builds the space of the model's neutral faces on the evaluation mesh, around the mean code: of its learned basis,
    orthogonal complement included, and of the smooth fields that a start from landmarks adds.

    The directions are ordered by how much training subjects vary along them: by the covariance of their learned codes,
    while the fields are such that coefficients are standard normal.
    """
    template = evaluation_template(model.template)
    fields = 0 if model.shape_fit is None else model.shape_fit.count
    with torch.no_grad():
        codes = spread_codes(model, slice(None, model.config.identity_dim))
        codes = torch.block_diag(codes, torch.eye(fields, device=codes.device))
        shapes = model.face.neutral(model.face.displacements(codes), template).cpu().double()
    return ordered(Space(shapes[0], shapes[1:] - template.vertices.cpu().double()))


def reflectance_space(model: FML) -> Space:
    """Builds the space of reflectances on the model's mesh, linear RGB, around the mean code, ordered alike."""
    with torch.no_grad():
        colors = model.face.reflectance(spread_codes(model, slice(model.config.identity_dim, None))).cpu().double()
        still = model.face.base_reflectance.cpu().double()
    return ordered(Space(colors[0], colors[1:] - still))


def spread_codes(model: FML, part: slice) -> Tensor:
    """The mean of some of a subject's codes, and after it the principal directions of their covariance over training
    subjects, each one standard deviation long: [1 + K, K] on the model's device."""
    factor = model.code_factor[:, part].cpu().double()  # a square root of the covariance
    values, vectors = torch.linalg.eigh(factor.T @ factor)
    directions = (values.clamp(min=0).sqrt() * vectors).T.float()  # [K, K]
    return torch.cat([model.code_mean[None, part].cpu(), directions]).to(model.code_mean.device)


def field_space(template: FaceTemplate, fields: Tensor) -> Space:
    """Builds the space that displacement fields of the graph, [K, 3G] node-major, span."""
    moves = fields.view(len(fields), -1, 3).float()
    return Space(
        template.vertices.double(),
        skin_displacements(moves, template.skin_indices, template.skin_weights, "torch").double(),
    )


def pca(scans: Tensor, weights: Tensor, most: int, rounds: int = 3) -> Space:
    """Computes principal components of scans [S, V, 3] after generalised Procrustes alignment: the scan-based model.

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


def ordered(space: Space, weights: Tensor | None = None) -> Space:
    """Orthogonalises the directions, the one that moves shapes most first; weights [V] say where."""
    flat = space.basis.flatten(1)
    moved = flat if weights is None else (space.basis * weights.double().sqrt()[:, None]).flatten(1)
    _, vectors = torch.linalg.eigh(moved @ moved.T)
    return Space(space.mean, (vectors.flip(1).T @ flat).view_as(space.basis))


def best_fit(space: Space, shapes: Tensor, weights: Tensor, rounds: int = 200) -> Tensor:
    """Fits the space to shapes [N, V, 3]; returns mean distances in mm over the region weights [V]: [N].

    Alternates the similarity that lays the fitted shape onto the true one (Umeyama) with least squares for the codes:
    both steps lower the squared distance, measured in the true shape's millimetres. No prior holds the codes. All sums
    over vertices are products with the true shape that no step changes, so that rounds cost nothing.
    """
    used = weights > 0
    w = weights[used].double()
    w = w / w.sum()
    mean, directions = space.mean[used], _orthonormal(space.basis[:, used], w)  # [V, 3], [R, V, 3]
    truth = shapes[:, used].double()
    centred = truth - torch.einsum("v,nvc->nc", w, truth)[:, None]
    weighted = w[:, None] * directions
    mean_cross = torch.einsum("v,nvj,vi->nji", w, centred, mean)  # [N, 3, 3], with the mean shape
    cross = torch.einsum("nvj,kvi->nkji", centred, weighted)  # [N, R, 3, 3], with each direction
    mean_center, centers = w @ mean, weighted.sum(1)  # [3], [R, 3]
    overlap, energy = (weighted * mean).sum((1, 2)), (w[:, None] * mean * mean).sum()
    codes = truth.new_zeros(len(truth), len(directions))
    for _ in range(rounds):
        center = mean_center + codes @ centers  # [N, 3]
        variance = energy + 2 * codes @ overlap + codes.square().sum(1) - center.square().sum(1)
        u, singular, vh = torch.linalg.svd(mean_cross + torch.einsum("nk,nkji->nji", codes, cross))
        sign = torch.ones_like(singular)
        sign[:, 2] = torch.linalg.det(u @ vh).sign()  # never a mirror image
        rotation, scale = u @ (sign[..., None] * vh), (singular * sign).sum(1) / variance
        turned = torch.einsum("nkji,nji->nk", cross, rotation) / scale[:, None]
        codes = turned + center @ centers.T - overlap
    return metrics.vertex_error(mean + torch.einsum("nk,kvc->nvc", codes, directions), truth, w)


def _orthonormal(basis: Tensor, weights: Tensor) -> Tensor:
    """Directions [R, V, 3] that span the same shapes, orthonormal by the weights; what others span drops out."""
    if not len(basis):
        return basis
    gram = torch.einsum("kvc,v,lvc->kl", basis, weights, basis)
    values, vectors = torch.linalg.eigh(gram)
    kept = values > 1e-10 * values[-1]
    return torch.einsum("kr,kvc->rvc", vectors[:, kept] / values[kept].sqrt(), basis)
