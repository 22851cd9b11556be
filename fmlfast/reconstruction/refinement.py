"""Refines codes at test time: Adam on the training losses over the codes of each subject."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fmlfast.common.cuda_graphs import CudaGraphs
from fmlfast.common.tensors import TensorBatch, independent
from fmlfast.data.frames import Frames
from fmlfast.kernels.common.backend import choose_backend
from fmlfast.losses import LossWeights, objective
from fmlfast.model.codes import Codes
from fmlfast.model.encoder import masked_mean
from fmlfast.model.fml import FML
from fmlfast.rotation import rotation_from_axis_angle

# The start already knows what the points tell, so pixels count more than in training, and the prior of shape and
# expression is how far they change.
REFINEMENT = LossWeights(photometric=60.0, expression=0.1, membrane=0.0, displacement=0.0)
PRIOR = 0.05  # weight of the whitened reflectance codes
SMOOTH, EXPRESSION = 0.0083, 4.0  # weights of the change of smooth fields and of expressions

# How far an early step of Adam moves each unknown, in its own unit.
_RATES = {"skin": 0.1, "smooth": 0.06, "turn": 0.01, "shift": 0.02, "sh": 0.02, "expression": 0.02}
_BETAS = (0.9, 0.99)
_LAST_RATE = 0.1  # of the first, which steps fall to linearly


@independent
@torch.no_grad()
def refine(
    model: FML,
    frames: Frames,
    codes: Codes,
    steps: int = 50,
    weights: LossWeights = REFINEMENT,
    prior: float = PRIOR,
    smooth: float = SMOOTH,
    expression: float = EXPRESSION,
    person: bool = True,
) -> Codes:
    """Refines codes by minimising the training losses on `frames` with Adam.

    Optimises reflectance codes (whitened by their covariance over training subjects), pose, light and expressions of
    every frame, and coefficients of smooth fields that change the shape: the returned identity codes are longer by
    these coefficients. The prior of shape and expressions is a Gaussian around `codes`, which the network has made of
    all points already. Subjects do not influence each other, and each gets the codes of its lowest loss, so none ends
    with a higher loss than it began with. On a GPU with Triton kernels a step is a replayed CUDA graph. Why Adam, and
    why these weights: docs/refinement.md.

    Args:
        model: its parameters are not changed.
        frames: of B subjects, on the model's device.
        codes: the starting point, such as the encoder's; not changed.
        steps: of Adam; 0 returns `codes`.
        weights: of the loss terms.
        prior: weight of the mean square of a subject's whitened reflectance codes.
        smooth: weight of the squared change of the smooth fields' coefficients.
        expression: weight of the squared change of a frame's expressions.
        person: refine identity and reflectance, too; else they are known, and only pose, light and expressions change.

    Raises:
        ValueError: a negative number of steps, or codes of other subjects or frames than `frames`.
    """
    if steps < 0:
        raise ValueError(f"steps must be 0 or more, got {steps}")
    if codes.translation.shape[:2] != frames.mask.shape:
        raise ValueError(
            f"codes of {list(codes.translation.shape[:2])} subjects and frames do not belong to frames of "
            f"{list(frames.mask.shape)}; pass what the model made of them"
        )
    if steps == 0:
        return codes
    frames, codes = frames.unlabelled().differentiable(), codes.differentiable()
    unknowns = _Unknowns(model, codes, frames.mask, person)

    def step(state: _State) -> dict[str, Tensor]:
        with torch.enable_grad():
            values = state.values.detach().requires_grad_()
            found = unknowns.codes(values)
            terms = [
                *objective(model, frames, found, weights).values(),
                unknowns.prior_loss(values, prior, smooth, expression),
            ]
            loss = torch.stack(terms).sum(0)
            (gradient,) = torch.autograd.grad(loss.sum(), values)
        return vars(state.after(loss.detach(), gradient, unknowns.lower, steps))

    device = codes.translation.device
    # The torch backend selects vertices by their values, which synchronises; a CUDA graph cannot record that.
    graph = device.type == "cuda" and choose_backend(model.backend, codes.translation) == "triton"
    run = CudaGraphs(step, device) if graph else step
    state = _State.start(unknowns.values)
    wanted = [p.requires_grad for p in model.parameters()]
    model.requires_grad_(False)
    try:
        for _ in range(steps + 1):  # a step evaluates the loss of the values set by the step before
            state = _State(**run(state))
    finally:
        for parameter, flag in zip(model.parameters(), wanted, strict=True):
            parameter.requires_grad_(flag)
    return unknowns.codes(state.best)


@dataclass
class _State(TensorBatch):
    """State of Adam on the unknowns of every subject, and the best values so far."""

    values: Tensor  # [B, N]
    mean: Tensor  # [B, N] of the gradient
    square: Tensor  # [B, N] of the gradient
    best: Tensor  # [B, N]
    least: Tensor  # [B] loss of the best
    count: Tensor  # [B] steps so far

    @classmethod
    def start(cls, values: Tensor) -> "_State":
        """Initialises Adam at values [B, N]."""
        zero = torch.zeros_like(values[:, 0])
        return cls(values, torch.zeros_like(values), torch.zeros_like(values), values, zero + torch.inf, zero)

    def after(self, loss: Tensor, gradient: Tensor, lower: Tensor, steps: int) -> "_State":
        """Applies a step of Adam; `loss` [B] and `gradient` [B, N] are those of the current values."""
        better = loss < self.least
        count = self.count + 1
        mean = torch.lerp(gradient, self.mean, _BETAS[0])
        square = torch.lerp(gradient.square(), self.square, _BETAS[1])
        first, second = ((1 - beta**count)[:, None] for beta in _BETAS)
        rate = (1 - (1 - _LAST_RATE) * self.count / steps)[:, None]
        move = rate * (mean / first) / ((square / second).sqrt() + 1e-8)
        return _State(
            values=torch.maximum(self.values - move, lower),
            mean=mean,
            square=square,
            best=torch.where(better[:, None], self.values, self.best),
            least=torch.where(better, loss, self.least),
            count=count,
        )


class _Unknowns:
    """Maps codes to the N unknowns per subject that refinement optimises, in units of their rates, and back."""

    def __init__(
        self,
        model: FML,
        codes: Codes,
        mask: Tensor,  # [B, M]
        person: bool,
    ) -> None:
        self.model, self.start, self.mask = model, codes.map(torch.detach), mask
        dim, fields = model.config.identity_dim, len(model.face.smooth)
        began = codes.identity[:, dim:]
        self.smooth = torch.nn.functional.pad(began, (0, fields - began.shape[1]))
        covariance = (model.code_factor.T @ model.code_factor).double()[dim:, dim:]
        self.factor = torch.linalg.cholesky(covariance, upper=True).float()
        whitened = torch.linalg.solve(self.factor, codes.reflectance - model.code_mean[dim:], left=False)
        still = torch.zeros_like(codes.translation)
        parts = {"turn": still, "shift": still}
        if person:
            parts |= {"skin": whitened, "smooth": torch.zeros_like(self.smooth)}
        parts |= {"sh": codes.sh * codes.tone.exp()[:, None, None], "expression": codes.expression}
        self.shapes = {name: part.shape for name, part in parts.items()}
        self.sizes = [part[0].numel() for part in parts.values()]
        self.values = torch.cat([part.flatten(1) / _RATES[name] for name, part in parts.items()], 1)  # [B, N]
        floors = [0.0 if name == "expression" else -torch.inf for name in parts]
        self.lower = torch.cat([self.values.new_full((n,), f) for n, f in zip(self.sizes, floors, strict=True)])  # [N]

    def prior_loss(
        self,
        values: Tensor,  # [B, N]
        prior: float,
        smooth: float,
        expression: float,
    ) -> Tensor:  # [B]
        """Computes the negative log prior of reflectance, shape and expressions, up to a constant."""
        parts = self._parts(values)
        change = masked_mean((parts["expression"] - self.start.expression).square(), self.mask)
        loss = expression * change.sum(1)
        if "skin" in parts:
            loss = loss + prior * parts["skin"].square().mean(1) + smooth * parts["smooth"].square().sum(1)
        return loss

    def codes(self, values: Tensor) -> Codes:  # [B, N]
        """Converts unknowns to codes.

        Pose unknowns are an axis-angle rotation multiplied from the left, a shift parallel to the image plane in cm,
        and the logarithm of the depth's change along the ray.
        """
        parts, dim = self._parts(values), self.model.config.identity_dim
        across, depth = parts["shift"].split([2, 1], -1)
        identity, reflectance = self.start.identity, self.start.reflectance
        if "skin" in parts:
            identity = torch.cat([identity[:, :dim], self.smooth + parts["smooth"]], 1)
            reflectance = self.model.code_mean[dim:] + parts["skin"] @ self.factor
        return Codes(
            identity=identity,
            reflectance=reflectance,
            detail=self.start.detail,
            rotation=rotation_from_axis_angle(parts["turn"]) @ self.start.rotation,
            translation=self.start.translation * depth.exp() + torch.cat([10 * across, torch.zeros_like(depth)], -1),
            tone=self.start.tone,
            sh=parts["sh"] / self.start.tone.exp()[:, None, None],
            expression=parts["expression"],
        )

    def _parts(self, values: Tensor) -> dict[str, Tensor]:
        named = zip(self.shapes.items(), values.split(self.sizes, 1), strict=True)
        return {name: (_RATES[name] * part).view(shape) for (name, shape), part in named}
