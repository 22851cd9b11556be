"""Learns mean and covariance of face shapes and the mean expression from the landmarks of clips by EM."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fmlfast.ibug68 import LANDMARKS_66
from fmlfast.model.gp_basis import sort_modes_by_face_motion
from fmlfast.model.landmark_fit import InitialFit, LandmarkFit, LandmarkObservations
from fmlfast.model.landmark_pose import fit_pose
from fmlfast.template.face_template import FaceTemplate

_ROUNDS = 3  # of EM; more fit the noise of landmarks
_FEW = 32  # people that the initial prior counts as


class ShapePrior(NamedTuple):
    """A population of faces: a Gaussian of displacements on the graph, and the mean expression."""

    smooth: Tensor  # [N, 3G] mm, fields whose standard normal coefficients have the population's covariance
    mean: Tensor  # [3G] mm
    expression: Tensor  # [E]


@torch.no_grad()
def learn_shape_prior(
    template: FaceTemplate,
    smooth: Tensor,  # [N, 3G] mm
    people: Sequence[LandmarkObservations],
    learn_mean: bool,
) -> ShapePrior:
    """Learns mean and covariance of `people`'s shapes in the span of the fields, and their mean expression, by EM.

    Expectation: every person is fitted (`LandmarkFit`). Maximisation: mean and covariance of the coefficients over
    people, the posterior covariance of each fit included, give the next round's mean face and fields, whose
    coefficients are standard normal. Without `learn_mean` the mean stays the template's. People with invalid landmarks
    (singular fits) are left out.
    """
    points = template.landmarks(template.vertices)[list(LANDMARKS_66)]
    fit = LandmarkFit(template, len(smooth)).to(smooth.device)
    factor = unit = torch.eye(len(smooth), dtype=torch.float64, device=smooth.device)  # of the covariance
    mean = torch.zeros_like(factor[0])  # coefficients of `smooth`
    for _ in range(_ROUNDS):
        fit.set_fields((factor.T @ smooth.double()).float(), (mean @ smooth.double()).float())
        moments, expressions, subjects, total = _FEW * unit, [], _FEW, torch.zeros_like(mean)
        for seen in people:
            rotation, translation = fit_pose(seen.landmarks, seen.Ks, points)
            found, precision, _ = fit.fit(seen, InitialFit(rotation, translation))
            assert found.smooth is not None and found.expression is not None
            whole = precision.isfinite().all(2).all(1)  # landmarks of the others are invalid
            known = found.smooth[whole].double()
            # Not by linalg.inv, which is wrong for such batches where torch.set_num_threads was called (MKL's LU).
            covariance = torch.cholesky_inverse(torch.linalg.cholesky(precision[whole].double()))
            moment = known.T @ known + covariance.sum(0)
            moments = moments + factor @ moment @ factor.T
            total = total + factor @ known.sum(0)
            counts = (seen.confidence > 0).any(1) & whole.repeat_interleave(len(seen.Ks) // seen.subjects)
            expressions.append(found.expression[counts])
            subjects += len(known)
        step = total / subjects * learn_mean
        factor = torch.linalg.cholesky(moments / subjects - torch.outer(step, step))
        mean = mean + step
        fit.usual = torch.cat([torch.zeros_like(fit.usual).expand(_FEW, -1), *expressions]).mean(0)
    smooth_fields = sort_modes_by_face_motion((factor.T @ smooth.double()).float(), template)
    return ShapePrior(smooth_fields, (mean @ smooth.double()).float(), fit.usual)
