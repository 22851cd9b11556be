"""Measures how well identity and expression come apart: drift of identity with expression, and expression transfer."""

import torch
from torch import Tensor

from fmlfast import metrics


def variance_ratio(values: Tensor) -> float:
    """Divides the variance within people by the variance of people's means.

    values [N, M, D]: N people in M frames each, all directions counted alike. 0 where frames agree about each person;
    frames that know nothing of the person give M, as their means differ by 1/M of the variance only.
    """
    people, frames = values.shape[:2]
    if people < 2 or frames < 2:
        raise ValueError(f"a ratio of variances needs two people in two frames at least, got {people} in {frames}")
    means = values.double().mean(1)  # [N, D]
    within = (values.double() - means[:, None]).square().sum() / (people * (frames - 1))
    return float(within / ((means - means.mean(0)).square().sum() / (people - 1)))


def explained_share(values: Tensor, causes: Tensor) -> float:
    """Returns the share of variance within people that is linear in the causes (adjusted R squared).

    values [N, M, D] and causes [N, M, E], of which only differences from the person's mean count. About 0 for causes
    that have nothing to do with the values (chance takes it below 0), 1 for those that decide them.
    """
    people, frames = values.shape[:2]
    y, x = ((v.double() - v.double().mean(1, keepdim=True)).flatten(0, 1) for v in (values, causes))
    fitted = x @ torch.linalg.lstsq(x, y, driver="gelsd").solution
    freedom = people * (frames - 1)
    left = freedom - int(torch.linalg.matrix_rank(x))
    if left <= 0:
        raise ValueError(f"{people} people in {frames} frames are too few for {causes.shape[-1]} causes")
    return float(1 - ((y - fitted).square().sum() / left) / (y.square().sum() / freedom))


def within_mm(neutral: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Aligns neutral faces, [N, M, V, 3], and measures each person's distance from their mean: RMS mm, [N].

    neutral [N, M, V, 3] of N people in M frames; weights [V] is the region that is aligned and measured.
    """
    flat = neutral.flatten(0, 1)
    aligned = metrics.similarity_align(flat, flat[:1].expand_as(flat), weights).apply(flat)
    aligned = aligned.unflatten(0, neutral.shape[:2])
    square = (aligned - aligned.mean(1, keepdim=True)).square().sum(-1).sum(1) / (neutral.shape[1] - 1)  # [N, V]
    return aligned, metrics.weighted_mean(square, weights).sqrt()


def transfer_errors(
    neutral: Tensor,  # [N, V, 3] mm
    moves: Tensor,  # [N, M, V, 3] mm
    true_neutral: Tensor,  # [N, V, 3] mm
    true_moves: Tensor,  # [N, M, V, 3] mm
    weights: Tensor,  # [V]
    shift: int = 1,
) -> Tensor:  # [N]
    """Returns the mean error in mm of each person with the expressions of the one `shift` places before.

    Estimated neutral face and estimated moves of somebody else's expressions against the same sum of true ones. A shift
    of 0 is each person's own reconstruction.
    """
    made = neutral[:, None] + moves.roll(shift, 0)
    truth = true_neutral[:, None] + true_moves.roll(shift, 0)
    errors = metrics.vertex_error(made.flatten(0, 1), truth.flatten(0, 1), weights)
    return errors.view(moves.shape[:2]).mean(1)
