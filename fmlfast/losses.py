"""Computes the loss of training and refinement: all weighted terms of a batch, one value per subject."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.profiler import record_function

from fmlfast.camera import project
from fmlfast.common.tensors import constant
from fmlfast.data.frames import Frames
from fmlfast.ibug68 import LANDMARKS_66, NUM_JAW
from fmlfast.kernels.common.gather import gather_rows
from fmlfast.kernels.deviation import deviation
from fmlfast.kernels.normals import vertex_normals
from fmlfast.kernels.photometric import photometric
from fmlfast.kernels.shading import shade_sh, shade_vertices
from fmlfast.kernels.sparsity import chromaticity, sparsity
from fmlfast.model.codes import Codes
from fmlfast.model.encoder import masked_mean
from fmlfast.model.fml import FML
from fmlfast.model.lighting import light_from_image

_EXACT = 0.01  # errors of labelled expressions below it hardly count


def landmark_loss(
    predicted: Tensor,  # [F, 66, 2] px
    detected: Tensor,  # [F, 66, 2] px
    confidence: Tensor,  # [F, 66] in [0, 1]
    size: int,  # px, side of the image
    jaw_weight: float,
) -> Tensor:  # [F]
    """Computes the Charbonnier loss of landmarks, robust to outliers of the detector.

    mean_i w_i c_i (sqrt(1 + d_i^2) - 1), with d_i the distance in percent of the image's side, c_i the confidence, and
    w_i = jaw_weight for the sliding jaw line, 1 else.
    """
    distance = ((predicted - detected) * (100.0 / size)).square().sum(-1)
    weight = torch.ones_like(confidence)
    weight[:, :NUM_JAW] = jaw_weight
    return ((torch.sqrt(1 + distance) - 1) * weight * confidence).mean(1)


def surface_loss(
    predicted: Tensor,  # [F, P, 2] px
    detected: Tensor,  # [F, P, 2] px
    weights: Tensor,  # [F, P] px^-2, inverse variances; 0 for points to ignore
) -> Tensor:  # [F]
    """Computes the Charbonnier loss of surface points: mean_i sqrt(1 + d_i^2) - 1, d_i in standard deviations."""
    distance = (predicted - detected).square().sum(-1) * weights
    return (torch.sqrt(1 + distance) - 1).sum(1) / max(1, distance.shape[1])


def surface_label_loss(
    predicted: Tensor,  # [F, P, 2] px
    labels: Tensor,  # [F, P, 2] px
    known: Tensor,  # [F] 1 where there are labels, 0 else
    size: int,  # px, side of the image
) -> Tensor:  # [F]
    """Computes the Charbonnier loss of exactly labelled surface points: mean_i sqrt(1 + d_i^2) - 1, d_i in percent."""
    distance = ((predicted - labels) * (100.0 / size)).square().sum(-1)
    return (torch.sqrt(1 + distance) - 1).sum(1) / max(1, distance.shape[1]) * known


def expression_label_loss(
    predicted: Tensor,  # [F, E]
    labels: Tensor,  # [F, E]
    known: Tensor,  # [F, E] 1 where there are labels, 0 else
) -> Tensor:  # [F]
    """Computes the Charbonnier loss of exactly labelled expressions: sum_u sqrt(0.01^2 + d_u^2) - 0.01.

    Nearly the absolute error: most expressions are 0 in most frames, and stay 0 where the median is.
    """
    return ((torch.sqrt((predicted - labels).square() + _EXACT**2) - _EXACT) * known).sum(1)


def color_label_loss(
    predicted: Tensor,  # [B, P, 3]
    labels: Tensor,  # [B, P, 3]
    cells: Tensor,  # [P] bool, which of them count
    known: Tensor,  # [B] 1 where there are labels, 0 else
) -> Tensor:  # [B]
    """Computes the squared error of labelled reflectance: sum_c mean_i (p_ic / p_c - l_ic / l_c)^2.

    p_c and l_c are means over the face, so that skin tone, which the pattern is without, does not count.
    """
    share = cells.to(predicted) / cells.sum().clamp(min=1)
    own, true = (colors / (share @ colors).clamp(min=1e-3)[:, None] for colors in (predicted, labels))
    return (share @ (own - true).square()).sum(1) * known


def membrane_loss(
    displacements: Tensor,  # [B, G, 3] mm
    edges: Tensor,  # [N, 2] pairs of neighbouring nodes
) -> Tensor:  # [B]
    """Computes the linearised membrane energy of node displacements t on the graph: mean_{(i,j)} ||t_i - t_j||^2."""
    rows = displacements.transpose(0, 1).flatten(1)  # [G, 3B]: long rows make gathers fast
    i, j = gather_rows(rows, edges.T).unbind()
    return (i - j).square().mean(0).view(len(displacements), 3).sum(1)


def displacement_loss(
    displacements: Tensor,  # [B, G, 3] mm
) -> Tensor:  # [B]
    """Computes the squared norm of node displacements t, which prefers shapes near the template: mean_i ||t_i||^2."""
    return displacements.square().sum(-1).mean(1)


def expression_loss(
    delta: Tensor,  # [F, E]
    sigma: float = 1.0,
) -> Tensor:  # [F]
    """Computes the squared norm of expression coefficients, a Gaussian prior: sum_u (delta_u / sigma)^2."""
    return (delta / sigma).square().sum(-1)


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss terms, tuned on the validation split of synthetic clips."""

    photometric: float = 10.0
    """Photometric loss; at 10 a colour difference of 0.1 costs as much as a landmark error of 0.75% of the image."""
    photometric_kind: Literal["squared", "l1", "charbonnier", "geman"] = "geman"
    """Function of the colour difference; geman (Geman-McClure) ignores outliers: hair, hands, highlights.
    The paper's is squared."""
    landmarks: float = 2.0
    """Landmark loss (Charbonnier)."""
    surface: float = 2.0
    """Loss of the detector's dense surface points, which take the landmarks' place where there are any."""
    jaw: float = 1.0
    """Weight of the jaw line relative to other landmarks; its confidence is low already.
    With 0.25 the results are worse by 1% of the mean face's error."""
    surface_labels: float = 4.0
    """Loss of surface points that the renderer of synthetic clips knows."""
    expression_labels: float = 0.5
    """Loss of expressions that the renderer of synthetic clips knows; at 4 geometry learns three times slower."""
    color_labels: float = 2.0
    """Loss of reflectance that the renderer of synthetic clips knows; without it shadows under brows, nose and chin are
    learned as skin."""
    membrane: float = 0.01
    """Membrane energy of the identity's node displacements (smoothness)."""
    displacement: float = 0.001
    """Squared norm of the identity's node displacements; keeps them from modelling pose. 0.004 flattens faces."""
    expression: float = 0.03
    """Squared norm of the expression coefficients (Gaussian prior)."""
    sparsity: float = 0.1
    """Sparsity of reflectance differences between neighbouring vertices of similar chromaticity."""
    reflectance: float = 0.5
    """Squared deviation of the reflectance from its mean; without it light is baked into skin colour."""


def objective(
    model: FML,
    frames: Frames,
    codes: Codes,
    weights: LossWeights,
    photometric_ramp: float = 1.0,
    detach_geometry: bool = False,
    fit_light: bool = False,
) -> dict[str, Tensor]:  # term -> [B]
    """Computes the weighted loss terms of a batch, one value per subject.

    `photometric_ramp` scales the photometric term, 0 leaves it out with sparsity and reflectance; `detach_geometry`
    stops its gradient to geometry, so that light and reflectance converge first; `fit_light` replaces the light of
    `codes` by a least-squares fit to the image, without gradient.
    """
    size = frames.images.shape[-1]
    subjects, count = frames.mask.shape
    Ks = frames.Ks.flatten(0, 1)
    with record_function("fmlfast::geometry"):
        displacements = model.displacements(codes)
    pose = codes.expression, codes.rotation, codes.translation

    def over_frames(values: Tensor) -> Tensor:
        return masked_mean(values.view(subjects, count, 1), frames.mask)[:, 0]

    ids = constant(LANDMARKS_66, torch.int64, Ks.device)
    with record_function("fmlfast::landmarks"):
        # On the few vertices around them: gradients of landmarks need not pass through the whole mesh.
        around = model.face.geometry(displacements, *pose, model.landmark_mesh).flatten(0, 1)
        precision = frames.precision.flatten(0, 1)
        dense = model.noise.known(precision)  # [F, 1]
        landmarks = landmark_loss(
            project(model.landmark_mesh.slide_landmarks(around, Ks)[:, ids], Ks),
            frames.landmarks[:, :, ids].flatten(0, 1),
            frames.confidence[:, :, ids].flatten(0, 1) * ~dense,
            size,
            weights.jaw,
        )
        picked, detected = model.noise.picked, frames.surface.flatten(0, 1)
        points = project(model.landmark_mesh.surface_points(around, picked), Ks)
        surface = surface_loss(points, detected[:, picked], model.noise.weights(precision))
        labels = frames.surface_labels.flatten(0, 1)[:, picked]
        labelled = surface_label_loss(points, labels, frames.surface_known.flatten(), size)
        marks = weights.landmarks * landmarks + weights.surface * surface + weights.surface_labels * labelled
    with record_function("fmlfast::regularisers"):
        own = displacements - model.face.mean_displacement
        expression, names = codes.expression.flatten(0, 1), model.noise.score
        known = frames.expression_known.flatten()[:, None] * (names > 0)
        told = expression_label_loss(expression, frames.expression_labels.flatten(0, 1)[:, names], known)
        terms = {
            "landmarks": over_frames(marks),
            "membrane": weights.membrane * membrane_loss(own, model.template.node_edges),
            "displacement": weights.displacement * displacement_loss(own),
            "expression": weights.expression * over_frames(expression_loss(expression)),
            "expression_labels": weights.expression_labels * over_frames(told),
        }
    if photometric_ramp > 0:
        with record_function("fmlfast::geometry"):
            with torch.set_grad_enabled(torch.is_grad_enabled() and not detach_geometry):
                camera = model.face.geometry(displacements, *pose).flatten(0, 1)
            pattern = model.pattern(codes)
            occluded = model.face.occluded(pattern)
        # Only the product of skin tone and light is in an image; here light takes the tone.
        light = (codes.sh * codes.tone.exp()[:, None, None]).flatten(0, 1)
        linear = frames.linear.flatten(0, 1)

        def seen(normals: Tensor) -> Tensor:
            with record_function("fmlfast::visibility"), torch.no_grad():
                visible = model.vertex_weights(camera.detach(), normals.detach(), Ks, size)
                return visible * frames.mask.flatten()[:, None]

        if fit_light:
            with record_function("fmlfast::shading"):
                normals = vertex_normals(camera, model.template.triangles, model.backend)
            visible = seen(normals)
            with record_function("fmlfast::shading"):
                light = light_from_image(linear, camera, Ks, occluded, normals, visible, model.light_weights)
                colors = shade_sh(occluded, normals, light, model.backend)
        else:
            with record_function("fmlfast::shading"):
                colors, normals = shade_vertices(camera, model.template.triangles, occluded, light, model.backend)
            visible = seen(normals)
        with record_function("fmlfast::photometric"):
            difference, sampled = photometric(
                linear, camera, Ks, colors, visible, weights.photometric_kind, model.backend
            )
            terms["photometric"] = photometric_ramp * weights.photometric * over_frames(difference)
        with record_function("fmlfast::regularisers"):
            shape = (subjects, count)
            chroma, known = chromaticity(sampled.unflatten(0, shape), visible.unflatten(0, shape), model.backend)
            rough = sparsity(pattern, chroma, known, model.mesh_edges, backend=model.backend)
            terms["sparsity"] = weights.sparsity * rough
            colored = color_label_loss(
                model.face.surface_colors(pattern),
                frames.color_labels[:, 0],
                model.face.surface_cells.any(1),
                frames.color_known[:, 0],
            )
            terms["color_labels"] = weights.color_labels * colored
            terms["reflectance"] = weights.reflectance * deviation(pattern, model.face.base_reflectance, model.backend)
    return terms
