"""Runs one step of training: augmentation, codes, losses, gradients, and both optimisers (Adam, LowRankAdam)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.profiler import record_function

from fmlfast.common.cuda_graphs import CudaGraphs
from fmlfast.data.augment import AugmentConfig, Batch, augment
from fmlfast.kernels.common.backend import choose_backend
from fmlfast.losses import LossWeights, objective
from fmlfast.model.codes import Codes
from fmlfast.model.fml import FML
from fmlfast.optim import LowRankAdam
from fmlfast.training.distributed import World

BETAS = (0.9, 0.99)


@dataclass(frozen=True)
class Rates:
    """Peak learning rates of Adam."""

    network: float = 1e-3
    """Peak learning rate of the encoder."""
    identity: float = 1e-2
    """Peak learning rate of the identity basis."""
    reflectance: float = 2e-3
    """Peak learning rate of the reflectance's mean and basis."""


@dataclass(frozen=True)
class Phase:
    """Schedule of one step: factors of learning rates and photometric term."""

    rate: float
    """Factor of the learning rates."""
    photometric: float
    """Factor of the photometric term; 0 leaves it out."""
    detach_geometry: bool
    """Whether the photometric term has no gradient to geometry."""


class TrainingStep:
    """Trains `model` by one batch per call.

    On a GPU, with one process and Triton kernels, a step is a replayed CUDA graph. Adam updates encoder, identity basis
    and mean reflectance; LowRankAdam updates the reflectance basis from the factors of its gradient, in the pass over
    the basis that also gives the codes' gradient.

    Args:
        model: on its device, in training mode.
        weights: of the loss terms.
        augmentation: of the batches.
        rates: peak learning rates.
        clip_gradient: largest norm of the gradients of the encoder, of the identity basis, and of mean and basis of the
            reflectance.
        lean_moments: keeps both moments of the reflectance basis in bfloat16, with stochastic rounding.
        graph: whether to record CUDA graphs.
        world: the processes that train together, each with its share of every batch.
    """

    def __init__(
        self,
        model: FML,
        weights: LossWeights,
        augmentation: AugmentConfig,
        rates: Rates,
        clip_gradient: float,
        lean_moments: bool,
        graph: bool,
        world: World,
    ) -> None:
        face, device = model.face, model.face.reflectance_mean.device
        self.model, self.weights, self.augmentation, self.rates = model, weights, augmentation, rates
        self.clip_gradient, self.world = clip_gradient, world
        self.encoder = world.wrap(model.encoder)
        shape = [face.identity_basis] if face.identity_mean is None else [face.identity_basis, face.identity_mean]
        groups = [list(model.encoder.parameters()), shape, [face.reflectance_mean]]

        def rate() -> Tensor:  # a tensor, which a CUDA graph reads at each replay
            return torch.zeros((), device=device)

        parameters = [{"params": group, "lr": rate()} for group in groups]
        self.adam = torch.optim.Adam(parameters, betas=BETAS, fused=True, capturable=device.type == "cuda")
        moments = torch.bfloat16 if lean_moments else None
        self.decoder = LowRankAdam(face.reflectance_basis, rate(), BETAS, moments=moments, backend=model.backend)
        face.decoder = self.decoder
        self.photometric = torch.zeros((), device=device)
        # The torch backend selects vertices by their values, which synchronises; a failed collective in a graph hangs.
        recorded = graph and world.size == 1 and choose_backend(model.backend, face.reflectance_mean) == "triton"
        self.run = CudaGraphs(self._step, device) if recorded else self._step

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Returns both optimisers by name, for checkpoints."""
        return {"adam": self.adam, "decoder": self.decoder}

    def __call__(self, batch: Batch, phase: Phase) -> dict[str, Tensor]:
        """Trains on a batch on the model's device; returns each loss term's mean, valid until the next call."""
        rates = (self.rates.network, self.rates.identity, self.rates.reflectance)
        for group, rate in zip(self.adam.param_groups, rates, strict=True):
            group["lr"].fill_(rate * phase.rate)
        self.decoder.param_groups[0]["lr"].fill_(self.rates.reflectance * phase.rate)
        self.photometric.fill_(phase.photometric)
        return self.run(batch, phase.photometric > 0, phase.detach_geometry)

    def _step(self, batch: Batch, photometric: bool, detach_geometry: bool) -> dict[str, Tensor]:
        model, face, weights = self.model, self.model.face, self.weights
        with record_function("fmlfast::augment"):
            frames, noise, landmark_mask = augment(batch, self.augmentation)
        with record_function("fmlfast::encode"):
            codes = model.codes(model.observe(frames, noise, landmark_mask), self.encoder)
        self.adam.zero_grad()
        names = [name for name in vars(codes) if name != "reflectance"]
        with self.decoder.cut(codes.reflectance, *(getattr(codes, name) for name in names)) as (reflectance, *others):
            leaves = Codes(reflectance=reflectance, **dict(zip(names, others, strict=True)))
            fit_light = model.config.light_fit
            labels = frames.labelled()
            losses = objective(model, labels, leaves, weights, float(photometric), detach_geometry, fit_light)
            terms = {name: value.mean() for name, value in losses.items()}
            if photometric:
                terms["photometric"] = terms["photometric"] * self.photometric
            with record_function("fmlfast::gradients"):
                torch.stack(list(terms.values())).sum().backward()
            with record_function("fmlfast::optimiser"):
                self.world.average_gradients([*self.adam.param_groups[1]["params"], face.reflectance_mean])
                if photometric:
                    self.world.gather_factors(self.decoder)
                    self.decoder.clip_grad_norm_(self.clip_gradient, [face.reflectance_mean])
        with record_function("fmlfast::optimiser"):
            for group in self.adam.param_groups[:2]:
                torch.nn.utils.clip_grad_norm_(group["params"], self.clip_gradient)
            self.adam.step()
            with torch.no_grad():  # a robust loss has no gradient at outliers, where colours could drift
                face.reflectance_mean.clamp_(0.0, 1.0)
        return {name: value.detach() for name, value in terms.items()}
