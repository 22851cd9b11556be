"""Finds the directions in which a trained model's people differ, for sliders in standard deviations."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fmlfast.model.codes import Codes
from fmlfast.model.fml import FML
from fmlfast.model.skin_tone import tone_range

_LEAST = 0.05  # weight of what is not the face


@dataclass(frozen=True)
class Population:
    """A model's people as independent coefficients of mean 0 and deviation 1, the largest differences first."""

    identity_mean: Tensor  # [A]
    identity: Tensor  # [I, A] change of the identity code for one deviation
    reflectance_mean: Tensor  # [Kr]
    reflectance: Tensor  # [R, Kr]
    darkest: Tensor  # [3] logarithm of the mean face colour, linear RGB
    lightest: Tensor  # [3]
    usual: float  # 0..1, between the two: the template's

    @classmethod
    @torch.no_grad()
    def of(cls, model: FML) -> "Population":
        """Computes the principal directions of shape and of reflectance by what they change in the face.

        The covariance is that of the training people's codes; smooth fields of the landmark fit, where there is one,
        are independent of them with deviation 1, as its prior has it.
        """
        size, count = model.config.identity_dim, 0 if model.shape_fit is None else model.shape_fit.count
        factor = model.code_factor.cpu()
        alphas, betas = factor[:, :size], factor[:, size:]
        identity = torch.block_diag(alphas, torch.eye(count)) if count else alphas  # rows: independent causes
        mean = torch.cat([model.code_mean[:size].cpu(), torch.zeros(count)])
        device = model.code_mean.device
        offset = model.face.displacements(torch.zeros(1, identity.shape[1], device=device))
        moved = (model.face.displacements(identity.to(device)) - offset).cpu()  # [N, G, 3]
        face = model.template.regions["face"].cpu().clamp(min=_LEAST)
        of_nodes = face[model.template.node_vertices.cpu()].sqrt()[:, None]
        base = model.face.reflectance(torch.zeros(1, betas.shape[1], device=device))
        painted = (model.face.reflectance(betas.contiguous().to(device)) - base).cpu()  # [N, V, 3]
        dark, light = tone_range()
        usual = (face @ model.template.colors.cpu() / face.sum()).log()
        return cls(
            mean,
            principal_directions((moved * of_nodes).flatten(1)) @ identity,
            model.code_mean[size:].cpu(),
            principal_directions((painted * face.sqrt()[:, None]).flatten(1)) @ betas,
            dark,
            light,
            float(((usual - dark) @ (light - dark) / (light - dark).square().sum()).clamp(0, 1)),
        )

    def codes(
        self,
        model: FML,
        identity: Tensor,  # [I]
        reflectance: Tensor,  # [R]
        lightness: float,  # 0..1
        warmth: float,  # -1..1
    ) -> Codes:
        """Computes the codes of one person in one frame, without expression, from deviations and skin tone."""
        alpha = (self.identity_mean + identity @ self.identity)[None]
        beta = (self.reflectance_mean + reflectance @ self.reflectance)[None]
        codes = Codes(
            identity=alpha,
            reflectance=beta,
            tone=torch.zeros(1, 3),
            detail=torch.zeros(1, 0, 3),
            rotation=torch.eye(3)[None, None],
            translation=torch.zeros(1, 1, 3),
            sh=torch.zeros(1, 1, 9, 3),
            expression=torch.zeros(1, 1, model.num_expressions),
        ).to(model.code_mean.device)
        face = model.template.regions["face"]
        pattern = torch.einsum("v,vc->c", face / face.sum(), model.pattern(codes)[0]).clamp(min=1e-3).cpu()
        codes.tone = (self.tone(lightness, warmth) - pattern.log())[None].to(codes.tone)
        return codes

    def tone(self, lightness: float, warmth: float) -> Tensor:  # [3]
        """Computes the logarithm of the mean face colour between the darkest and the lightest people's."""
        return torch.lerp(self.darkest, self.lightest, lightness) + warmth * torch.tensor([0.15, 0.0, -0.2])


def principal_directions(
    effects: Tensor,  # [N, D]
) -> Tensor:  # [N, N]
    """Computes an orthonormal basis of independent causes, rows sorted by how much they change, from each one's effect.

    The sign of each is such that its largest share is positive.
    """
    values, vectors = torch.linalg.eigh(effects.double() @ effects.double().T)
    rows = vectors.T.flip(0)
    sign = rows.gather(1, rows.abs().argmax(1, keepdim=True)).sign()
    return (rows * sign).float()
