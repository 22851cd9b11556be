"""Test-time refinement: the training losses, optimised over the codes of each clip."""

import torch
from torch import Tensor

from fmlfast.frames import Codes, Frames
from fmlfast.objective import LossWeights, objective
from fmlfast.rotation import rotation_from_axis_angle
from fmlfast.system import FML

# Codes start near the answer, so the image may pull harder than in training, and expressions be held tighter.
REFINEMENT = LossWeights(photometric=10.0, expression=0.1)


def refine(
    model: FML,
    frames: Frames,
    codes: Codes,
    steps: int = 50,
    weights: LossWeights = REFINEMENT,
    prior: float = 0.005,
) -> Codes:
    """Codes that explain `frames` better than the encoder's.

    Adam over identity and reflectance codes (in the units of their spread over training subjects, with a weak
    Gaussian prior of weight `prior`), pose, light and expressions of every frame. Subjects do not influence each
    other. Raises ValueError for a negative number of steps.
    """
    if steps < 0:
        raise ValueError(f"steps must be 0 or more, got {steps}")
    if steps == 0:
        return codes
    codes = Codes(**{name: value.detach() for name, value in vars(codes).items()})
    start = torch.cat([codes.identity, codes.reflectance], 1) - model.code_mean
    whitened = torch.linalg.lstsq(model.code_factor.T, start.T).solution.T.contiguous()
    depth = codes.translation[..., 2:]
    free: dict[str, Tensor] = {
        "code": whitened,
        "turn": torch.zeros_like(codes.translation),
        "shift": torch.zeros_like(codes.translation),
        "sh": codes.sh.clone(),
        "expression": codes.expression.clone(),
        "residual": codes.residual.clone(),
    }
    rates = {"code": 0.1, "turn": 0.01, "shift": 0.02, "sh": 0.02, "expression": 0.02, "residual": 0.05}
    for value in free.values():
        value.requires_grad_()
    optimizer = torch.optim.Adam(
        [{"params": [free[name]], "lr": rate} for name, rate in rates.items()], betas=(0.9, 0.99)
    )

    def current() -> Codes:
        code = model.code_mean + free["code"] @ model.code_factor
        # A shift in image-plane cm at the face's depth, and a relative change of depth along the ray.
        grown = codes.translation * torch.exp(free["shift"][..., 2:])
        sideways = torch.cat([10.0 * free["shift"][..., :2], torch.zeros_like(depth)], -1)
        return Codes(
            identity=code[:, : model.config.identity_dim],
            reflectance=code[:, model.config.identity_dim :],
            rotation=rotation_from_axis_angle(free["turn"]) @ codes.rotation,
            translation=grown + sideways,
            sh=free["sh"],
            expression=free["expression"],
            residual=free["residual"],
        )

    parameters = list(model.parameters())
    wanted = [p.requires_grad for p in parameters]
    model.requires_grad_(False)
    try:
        with torch.enable_grad():
            for step in range(steps):
                for group, rate in zip(optimizer.param_groups, rates.values(), strict=True):
                    group["lr"] = rate * (1 - 0.9 * step / steps)
                loss = torch.stack(list(objective(model, frames, current(), weights).values())).sum()
                loss = loss + prior * free["code"].square().mean(1).sum()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                if not model.config.signed_expressions:
                    with torch.no_grad():
                        free["expression"].clamp_(min=0.0)
    finally:
        for parameter, flag in zip(parameters, wanted, strict=True):
            parameter.requires_grad_(flag)
    return Codes(**{name: value.detach() for name, value in vars(current()).items()})
