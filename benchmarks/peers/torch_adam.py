"""torch.optim.Adam for `low_rank_adam`: the gradient of the basis is written out, and so read again."""

from functools import partial

import torch
import torch.nn.functional as F
from torch.optim.adam import adam

from benchmarks.harness.case import Inputs, Outputs
from benchmarks.ops.low_rank_adam import BETAS, EPS, RATE, STEP

NAME = "torch.optim.Adam"


def available() -> str:
    """Always."""
    return ""


def update(inputs: Inputs, fused: bool) -> Outputs:  # [K, S] three times, [N, K]
    """As a backward pass and a step, without clipping. Moments stored in bfloat16 are converted before and after."""
    basis, codes, upstream = (inputs[name] for name in ("basis", "codes", "upstream"))
    moments = inputs["exp_avg"], inputs["exp_avg_sq"]
    codes_grad = upstream @ basis[:, : upstream.shape[1]].T
    gradient = codes.T @ F.pad(upstream, (0, basis.shape[1] - upstream.shape[1]))
    exact = [moment.float() for moment in moments]
    # Counted up by the call; on the host, where it is unless fused.
    step = inputs["step"] - 1 if fused else torch.tensor(STEP - 1)
    beta1, beta2 = BETAS
    constants = {"lr": RATE, "beta1": beta1, "beta2": beta2, "eps": EPS}
    fixed = {"amsgrad": False, "maximize": False, "weight_decay": 0.0}
    state = [[exact[0]], [exact[1]], [], [step]]
    adam([basis], [gradient], *state, fused=fused or None, **constants, **fixed)
    for moment, value in zip(moments, exact, strict=True):
        if moment is not value:
            moment.copy_(value)
    return basis, *moments, codes_grad


RUNS = {"low_rank_adam": partial(update, fused=False)}
