"""Defines the dense landmark network: corrects the face detector's 478 points on the pixels of the aligned crop.

The detector's points lie 3.6% of the eye distance off the surface points they stand for, with errors that are
correlated and pull towards the detector's own mean face. This network sees the crop and the points, and gives the 2D
positions of fixed surface points, hidden ones too, each with its uncertainty. Like Wood et al., 3D Face Reconstruction
with Dense Landmarks (ECCV 2022), it is taught by the renderer's 2D points of synthetic people only.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmlfast.common.tensors import exact, independent
from fmlfast.data.landmark_assets import FEATURES, landmark_assets
from fmlfast.data.mediapipe478 import MIRROR_POINTS, NUM_POINTS
from fmlfast.ibug68 import MIRROR, NUM_LANDMARKS
from fmlfast.rotation import fit_similarity

CROP = 128  # px, side of the network's input
_TOTAL = NUM_POINTS + NUM_LANDMARKS
_LOCAL = 8  # features that each point takes from its surroundings
_UNIT = 0.02  # crop coordinates, of the outputs
_ALIASING = 1.1  # px of the image in one of the crop; above it the image is made smaller first
_SKIN = NUM_POINTS - 10  # the last points ring the irises, which turn


class _Residual(nn.Module):
    """Adds two 3x3 convolutions to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.norms[0](self.first(x)))
        return F.relu(x + self.norms[1](self.second(inner)))


def _down(inputs: int, outputs: int) -> nn.Sequential:
    """Builds a 3x3 convolution of stride 2, BatchNorm, ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class _Descent(nn.Module):
    """Corrects points by the features at their places, a learned descent step (Xiong and De la Torre, CVPR 2013)."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.local = nn.Parameter(torch.randn(_TOTAL, features, _LOCAL) / features**0.5)
        self.offset = nn.Parameter(torch.zeros(_TOTAL, 1, _LOCAL))
        self.join = nn.Sequential(nn.Linear(_TOTAL * _LOCAL + width, width // 2), nn.ReLU())
        self.out = _small_linear(width // 2, 3 * _TOTAL)

    def forward(self, features: Tensor, points: Tensor, known: Tensor) -> Tensor:
        seen = F.grid_sample(features.float(), points[:, :, None], padding_mode="border", align_corners=False)[..., 0]
        seen = torch.baddbmm(self.offset, seen.permute(2, 0, 1).contiguous(), self.local)  # [546, F, 8]
        return self.out(self.join(torch.cat([F.relu(seen).transpose(0, 1).flatten(1), known], 1))).float()


def _estimate(base: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Converts outputs [F, 3 * 546] to points [F, 546, 2] and the logarithm of their deviations [F, 546]."""
    offsets, spread = outputs.split([2 * _TOTAL, _TOTAL], 1)
    return base + _UNIT * offsets.unflatten(1, (-1, 2)), spread - 4.0


def _small_linear(inputs: int, outputs: int) -> nn.Linear:
    """Builds a dense layer with small initial outputs."""
    layer = nn.Linear(inputs, outputs)
    with torch.no_grad():
        layer.weight.mul_(0.1)
        layer.bias.zero_()
    return layer


class LandmarkNetwork(nn.Module):
    """Predicts surface points from the aligned crop and the detector's points, in crop coordinates [-1, 1]^2.

    A first estimate from the whole crop and the detector's points is corrected by the features around its points.
    """

    canonical: Tensor  # [478, 2] mean position of the detector's points, which crops are aligned to
    reduce: Tensor  # [68, 478] the detector's points that each iBUG landmark averages

    def __init__(self, channels: tuple[int, int, int, int] = (16, 32, 96, 160), width: int = FEATURES) -> None:
        super().__init__()
        a, b, c, d = channels
        self.tower = nn.ModuleList(
            nn.Sequential(*part) for part in ([_down(3, a)], [_down(a, b), _Residual(b)], [_down(b, c), _Residual(c)])
        )
        self.last = nn.Sequential(_down(c, d), _Residual(d), nn.Conv2d(d, 48, 1), nn.ReLU(), nn.Flatten())
        self.pixels = nn.Sequential(nn.Linear(48 * (CROP // 16) ** 2, width), nn.ReLU())
        self.points = nn.Sequential(nn.Linear(2 * NUM_POINTS, 256), nn.ReLU())
        self.join = nn.Sequential(nn.Linear(width + 256, width), nn.ReLU())
        self.out = _small_linear(width, 3 * _TOTAL)
        self.around = nn.Sequential(nn.Conv2d(4 * a + b + c, 64, 1), nn.ReLU())
        self.descent = _Descent(64, width)
        self.register_buffer("canonical", torch.zeros(NUM_POINTS, 2))
        self.register_buffer("reduce", torch.zeros(NUM_LANDMARKS, NUM_POINTS))
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(
        self,
        crops: Tensor,  # [F, 3, 128, 128] sRGB in [0, 1]
        points: Tensor,  # [F, 478, 2] of the detector, crop coordinates
    ) -> tuple[Tensor, Tensor]:  # [F, 546, 2] crop coordinates, [F, 546]
        """Predicts 478 surface points, then 68 landmarks, and the logarithm of each one's standard deviation."""
        return self.stages(crops, points)[1]

    def stages(
        self, crops: Tensor, points: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Tensor]:  # and [F, FEATURES]
        """Predicts as `forward` does; returns the estimates before and after the correction, and the features."""
        fine = self.tower[0](((crops - 0.45) * 3).contiguous(memory_format=torch.channels_last))
        middle = self.tower[1](fine)
        coarse = self.tower[2](middle)
        known = self.points(((points - self.canonical) * 10).flatten(1))
        joined = self.join(torch.cat([self.pixels(self.last(coarse)), known], 1))
        base = torch.cat([points, self.reduce @ points], 1)
        first, spread = _estimate(base, self.out(joined).float())
        coarse = F.interpolate(coarse, scale_factor=2.0, mode="bilinear")
        features = self.around(torch.cat([F.pixel_unshuffle(fine, 2), middle, coarse], 1))
        return (first, spread), _estimate(first, self.descent(features, first.detach(), joined)), joined

    @exact
    @torch.no_grad()
    def correct(
        self,
        images: Tensor,  # [F, 3, H, W] sRGB in [0, 1]
        points: Tensor,  # [F, 478, 2] px, the detector's
    ) -> tuple[Tensor, Tensor, Tensor]:  # [F, 546, 2] px, [F, 546] px, [F, 2, FEATURES]
        """Corrects the detector's points; returns surface points, then landmarks, and their standard deviations.

        The mean of the predictions on the crop and on its mirror image; also both images' features.
        """
        matrix, offset = align_points(self.canonical, points)
        size = matrix.new_tensor([images.shape[3], images.shape[2]])
        theta = torch.cat([matrix, offset[..., None]], 2) * (2 / size)[:, None] - F.pad(matrix.new_ones(2, 1), (2, 0))
        grid = F.affine_grid(theta, [len(images), 3, CROP, CROP], align_corners=False)
        finer = float(matrix[:, 0].norm(dim=1).max()) * 2 / CROP
        if finer > _ALIASING:
            images = F.interpolate(images, scale_factor=1 / finer, mode="bilinear", antialias=True)
        crops = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        scale = matrix[:, 0].norm(dim=1)[:, None, None]
        inside = (points - offset[:, None]) @ matrix / scale.square()
        points_table, table = mirror_tables()
        axis = inside.new_tensor([-1.0, 1.0])
        both = torch.cat([crops, crops.flip(-1)]), torch.cat([inside, inside[:, points_table] * axis])
        _, (found, spread), features = self.stages(*both)
        (found, other), (spread, beside) = found.chunk(2), spread.chunk(2)
        found, spread = 0.5 * (found + other[:, table] * axis), 0.5 * (spread + beside[:, table])
        features = torch.stack(features.chunk(2), 1)
        return found @ matrix.mT + offset[:, None], spread.exp() * scale[..., 0], features

    @classmethod
    @independent
    def load(cls) -> "LandmarkNetwork":
        """Loads the network that ships with the package, in evaluation mode."""
        network = cls()
        known = landmark_assets()
        network.load_state_dict({name: known[f"network.{name}"].float() for name in network.state_dict()})
        return network.eval().requires_grad_(False)


def align_points(
    canonical: Tensor,  # [478, 2]
    points: Tensor,  # [F, 478, 2] px
) -> tuple[Tensor, Tensor]:  # [F, 2, 2], [F, 2] px
    """Fits the least-squares similarity px = matrix @ c + offset from the mean position of the points on the skin."""
    return fit_similarity(canonical[:_SKIN], points[:, :_SKIN])


@cache
@independent
def mirror_tables() -> tuple[Tensor, Tensor]:
    """Returns the permutations of the 478 points and of all 546 in a mirrored image."""
    points = torch.tensor(MIRROR_POINTS)
    return points, torch.cat([points, torch.tensor(MIRROR) + NUM_POINTS])
