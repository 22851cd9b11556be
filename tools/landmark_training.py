"""Trains the dense landmark network on aligned crops; used by tools/train_landmark_network.py."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fmlfast.data.landmark_network import CROP, LandmarkNetwork, mirror_tables
from fmlfast.data.mediapipe478 import NUM_POINTS

BATCH = 64
MARGIN = 1.125  # half side of the stored crops, in crop coordinates: room to shift, scale and turn them
SHIFT, SCALE, TURN = 0.03, 0.05, 0.06  # standard deviations: crop coordinates, logarithm, radians
ERRORS = 40  # principal components of the detector's errors that the points are disturbed along
EARLY = 0.3  # weight of the first estimate's loss
AVERAGE = 0.999  # decay of the weights' moving average, which is what the training returns


@dataclass
class Crops:
    """N aligned crops with the detector's points and the true ones, in crop coordinates."""

    images: Tensor  # [N, 3, 144, 144] uint8, of [-MARGIN, MARGIN]^2
    points: Tensor  # [N, 478, 2] the detector's
    targets: Tensor  # [N, 546, 2] surface points, then landmarks
    person: Tensor  # [N] int64

    def select(self, index: Tensor | slice) -> "Crops":
        """Selects crops."""
        return Crops(self.images[index], self.points[index], self.targets[index], self.person[index])


def error_modes(crops: Crops) -> Tensor:
    """Computes the principal components [ERRORS, 478, 2] of the detector's errors, each of its standard deviation."""
    errors = (crops.points - crops.targets[:, :NUM_POINTS]).flatten(1)
    errors = errors - errors.mean(0)
    _, spread, modes = torch.pca_lowrank(errors[:: max(1, len(errors) // 8000)], ERRORS, center=False)
    scale = spread / min(len(errors), 8000) ** 0.5
    return (modes * scale).T.reshape(ERRORS, NUM_POINTS, 2)


def augmented(some: Crops, modes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Draws a mirrored, moved, recoloured and partly covered version of crops, with disturbed points.

    Returns images [N, 3, 128, 128] in [0, 1], points [N, 478, 2] and targets [N, 546, 2].
    """
    count = len(some.images)
    flip = torch.rand(count) < 0.5
    sign = torch.where(flip, -1.0, 1.0)
    axis = torch.stack([sign, torch.ones(count)], 1)[:, None]
    swap, table = mirror_tables()
    points = torch.where(flip[:, None, None], some.points[:, swap] * axis, some.points)
    targets = torch.where(flip[:, None, None], some.targets[:, table] * axis, some.targets)
    disturbed = torch.einsum("nk,kpc->npc", torch.randn(count, len(modes)), modes)
    points = points + disturbed * (0.6 * torch.rand(count, 1, 1) * (torch.rand(count, 1, 1) < 0.6))
    turn, scale, shift = TURN * torch.randn(count), torch.exp(SCALE * torch.randn(count)), SHIFT * torch.randn(count, 2)
    cos, sin = scale * turn.cos(), scale * turn.sin()
    matrix = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)  # new crop to old
    # The mirrored crop is sampled by mirroring the coordinates in the stored one.
    theta = torch.cat([matrix, shift[..., None]], 2) / MARGIN
    theta[:, 0] *= sign[:, None]
    grid = F.affine_grid(theta, [count, 3, CROP, CROP], align_corners=False)
    images = F.grid_sample(some.images.float() / 255, grid, padding_mode="border", align_corners=False)

    def moved(places: Tensor) -> Tensor:
        return (places - shift[:, None]) @ matrix / (scale**2)[:, None, None]

    return recoloured(images), moved(points), moved(targets)


def recoloured(images: Tensor) -> Tensor:
    """Draws gamma, exposure, tint, blur, low resolution, noise and covered patches."""
    count, side = len(images), images.shape[-1]
    images = images.clamp(0, 1) ** torch.exp(0.25 * torch.randn(count, 1, 1, 1))
    images = images * (torch.exp(0.2 * torch.randn(count, 1, 1, 1)) * torch.exp(0.08 * torch.randn(count, 3, 1, 1)))
    kind = float(torch.rand(()))
    if kind < 0.2:
        images = F.avg_pool2d(images, 3, 1, 1)
    elif kind < 0.4:
        smaller = int(side * (0.5 + 0.4 * float(torch.rand(()))))
        images = F.interpolate(images, size=(smaller, smaller), mode="bilinear", antialias=True)
        images = F.interpolate(images, size=(side, side), mode="bilinear")
    if float(torch.rand(())) < 0.1:
        images = images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    images = images + 0.03 * torch.rand(count, 1, 1, 1) * torch.randn_like(images)
    for index in torch.nonzero(torch.rand(count) < 0.25)[:, 0].tolist():
        height, width = torch.randint(8, 44, (2,)).tolist()
        top, left = int(torch.randint(0, side - height, ())), int(torch.randint(0, side - width, ()))
        images[index, :, top : top + height, left : left + width] = torch.rand(3, 1, 1)
    return images.clamp(0, 1)


def central(some: Crops) -> Tensor:
    """Samples the crops without augmentation, [N, 3, 128, 128] in [0, 1]."""
    theta = torch.eye(2, 3).expand(len(some.images), 2, 3) / MARGIN
    grid = F.affine_grid(theta, [len(some.images), 3, CROP, CROP], align_corners=False)
    return F.grid_sample(some.images.float() / 255, grid, padding_mode="border", align_corners=False)


def loss(predicted: Tensor, spread: Tensor, targets: Tensor) -> Tensor:
    """Computes the negative log likelihood of points under isotropic Gaussians of log deviations [N, 546]."""
    squared = (predicted - targets).square().sum(-1)
    return (2 * spread + 0.5 * squared * torch.exp(-2 * spread)).mean()


@torch.no_grad()
def predict(network: LandmarkNetwork, crops: Crops) -> tuple[Tensor, Tensor]:
    """Predicts points [N, 546, 2] and log deviations [N, 546] of crops."""
    network.eval()
    found = [
        network(central(some), some.points)
        for some in (crops.select(slice(i, i + 64)) for i in range(0, len(crops.images), 64))
    ]
    network.train()
    return torch.cat([p for p, _ in found]), torch.cat([s for _, s in found])


def error_percent(points: Tensor, targets: Tensor) -> Tensor:
    """Computes the mean distance of points from targets [N, P, 2], in % of the outer-eye distance of the crop, [N]."""
    return 100 / 0.9 * (points - targets).norm(dim=-1).mean(1)


def train(
    network: LandmarkNetwork,
    crops: Crops,
    held_out: dict[str, Crops],
    steps: int,
    rate: float,
    seed: int,
    save: Callable[[LandmarkNetwork], None],
) -> None:
    """Trains the network at peak learning rate `rate`; `save` gets it every 500 steps and at the end."""
    torch.manual_seed(seed)
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=1e-3)
    averaged = {name: value.detach().clone().float() for name, value in network.state_dict().items()}
    modes = error_modes(crops)
    step, begin = 0, time.time()
    while step < steps:
        for chosen in torch.randperm(len(crops.images)).split(BATCH):
            if len(chosen) < BATCH or step >= steps:
                break
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * step / steps))
            images, points, targets = augmented(crops.select(chosen), modes)
            with torch.autocast("cpu", torch.bfloat16):
                first, second, _ = network.stages(images, points)
            values = [loss(*estimate, targets) for estimate in (first, second)]
            value = values[1] + EARLY * values[0]
            optimizer.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            step += 1
            decay = min(AVERAGE, step / (step + 20))
            with torch.no_grad():
                for name, tensor in network.state_dict().items():
                    averaged[name].lerp_(tensor.float(), 1 - decay)
            if step % 500 == 0 or step == steps:
                current = {name: tensor.clone() for name, tensor in network.state_dict().items()}
                network.load_state_dict(averaged)
                errors = []
                for name, some in held_out.items():
                    found, deviation = predict(network, some)
                    percent = error_percent(found[:, :NUM_POINTS], some.targets[:, :NUM_POINTS]).mean()
                    errors.append(f"{name} {percent:.3f}% loss {loss(found, deviation, some.targets):.3f}")
                save(network)
                if step < steps:
                    network.load_state_dict(current)
                print(
                    f"{step} {(time.time() - begin) / 60:.1f} min loss {float(value):.3f} {', '.join(errors)}",
                    flush=True,
                )
    network.eval()
