"""Tells skin tone from light: images determine only their product, which a prior over both splits.

The prior is over the logarithms of a person's mean face colour and of what a picture shows: the face, the eyes' white,
the background, the whole. Skin given picture is then a regression, measured on synthetic people whose cameras choose
exposure and white balance as real ones do (tools/fit_skin_tone.py).
"""

from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from fmlfast.camera import project
from fmlfast.color import LUMINANCE
from fmlfast.common.tensors import independent
from fmlfast.data.frames import Frames
from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.photometric import sample_bilinear
from fmlfast.kernels.rasterize import rasterize
from fmlfast.model.encoder import masked_mean
from fmlfast.template.face_template import FaceTemplate

ASSETS = Path(__file__).with_name("skin_tone.safetensors")
_DARK = 3e-3  # linear; darker counts as this, so that logarithms stay small
_SHARES = (0.1, 0.5, 0.9)  # quantiles of the background's luminance
_BRIGHT = 0.8  # quantile of the eyes' luminance that is their white
_FARTHEST = 3.0  # standard deviations; pictures unlike the synthetic ones must not be extrapolated to


@cache
@independent
def _assets(device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in load_file(ASSETS).items()}


def estimate_skin_tone(
    features: Tensor,  # [B, M, N] of `observe_skin`
    mask: Tensor,  # [B, M] bool
) -> Tensor:  # [B, 3]
    """Estimates the logarithm of the face's mean linear reflectance from all frames of each person."""
    known = _assets(features.device)
    terms = regression_terms(masked_mean(features, mask), known["center"], known["scale"])
    return (terms @ known["weights"]).clamp(known["range"][0], known["range"][1])


def skin_tone_deviation(mask: Tensor) -> Tensor:  # [B, M] bool -> [B]
    """Computes the standard deviation of `estimate_skin_tone`'s errors, by the number of frames."""
    always, alone = _assets(mask.device)["variance"]
    return (always + alone / mask.sum(1).clamp(min=1)).sqrt()


def tone_range() -> Tensor:  # [2, 3]
    """Returns the logarithms of the darkest and the lightest people's mean linear reflectance of the face."""
    return _assets(torch.device("cpu"))["range"]


def regression_terms(
    features: Tensor,  # [B, N]
    center: Tensor,  # [N]
    scale: Tensor,  # [N]
) -> Tensor:  # [B, 1 + N + 6]
    """Standardises features; appends the products of the face's own three, as the brightest skin saturates."""
    x = ((features - center) / scale).clamp(-_FARTHEST, _FARTHEST)
    first, second = torch.triu_indices(3, 3, device=x.device)
    return torch.cat([torch.ones_like(x[:, :1]), x, x[:, first] * x[:, second]], 1)


@torch.no_grad()
def observe_skin(
    template: FaceTemplate,
    frames: Frames,
    camera: Tensor,  # [F, V, 3] mm
    pattern: Tensor,  # [B, V, 3] reflectance without skin tone
    product: Tensor,  # [B, M, 9, 3] light times skin tone
    backend: Backend | None = None,
) -> tuple[Tensor, Tensor]:  # [B, 3], [B, M, N]
    """Computes the mean colour of the face's pattern, and the features that tell skin tone.

    Features are logarithms of the colours of the face under the light's ambient part, the background, the whole image
    and the eyes' white, and quantiles of the background's luminance.
    """
    weight = template.regions["face"] / template.regions["face"].sum()
    skin = torch.einsum("v,bvc->bc", weight, pattern)
    face = product[:, :, 0] * skin[:, None]
    linear, Ks = frames.linear.flatten(0, 1), frames.Ks.flatten(0, 1)
    size = linear.shape[-1]
    weights = linear.new_tensor(LUMINANCE)
    uncovered = rasterize(camera, template.triangles, Ks, size, size, backend=backend).triangle_id < 0
    rows = torch.arange(size, device=linear.device) + 0.5
    behind = uncovered & (rows < project(camera, Ks).mean(1)[:, 1:])[:, :, None]  # above the shoulders
    luminance = torch.einsum("fchw,c->fhw", linear, weights).where(behind, torch.nan).flatten(1)
    shares = luminance.nanquantile(linear.new_tensor(_SHARES), dim=1).mT.nan_to_num(_DARK)
    background = (linear * behind[:, None]).flatten(2).sum(2) / behind.flatten(1).sum(1, keepdim=True).clamp(min=1)
    white = template.regions["eyes"] * (1 - template.regions["iris"]) > 0.5
    seen = sample_bilinear(linear, project(camera[:, white].contiguous(), Ks))  # [F, E, 3]
    order = (seen @ weights).argsort(1)[:, int(_BRIGHT * seen.shape[1]), None, None]
    sclera = seen.gather(1, order.expand(-1, -1, 3))[:, 0] if seen.shape[1] else face.flatten(0, 1)
    parts = [face.flatten(0, 1), background, linear.flatten(2).mean(2), sclera, shares]
    return skin, torch.cat(parts, 1).clamp(min=_DARK).log().unflatten(0, frames.mask.shape)
