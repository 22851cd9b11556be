"""Averages errors over people with dark, medium and light skin, to see whether a model serves all alike."""

import torch
from torch import Tensor

GROUPS = ("dark", "medium", "light")


def tone_groups(
    errors: dict[str, dict[str, Tensor]],  # row -> metric -> [F]
    luminance: Tensor,  # [F] of the person's true mean face colour
) -> dict[str, dict[str, dict[str, float]]]:  # group -> row -> metric -> mean
    """Splits frames into thirds by the true skin's luminance and averages every error in each.

    Returns {} for fewer than three different people.
    """
    levels = luminance.unique()
    if len(levels) < len(GROUPS):
        return {}
    cuts = levels[[len(levels) // 3, 2 * len(levels) // 3]]
    group = torch.bucketize(luminance, cuts, right=True)
    return {
        name: {
            row: {metric: float(values[group == k].mean()) for metric, values in named.items()}
            for row, named in errors.items()
        }
        for k, name in enumerate(GROUPS)
    }
