"""Fits what a picture tells of skin tone, on synthetic clips with truth: `python tools/fit_skin_tone.py DATA...`.

Writes fmlfast/model/skin_tone.safetensors. Uses the shipped model's geometry; the training splits are fitted, the error
is told on the validation splits.
"""

import sys
from pathlib import Path

import fmlfast.common.passive_waiting  # noqa: F401  (before torch)

import torch
from torch import Tensor

from fmlfast.common.atomic import atomic_path
from fmlfast.common.tensor_file import write_tensors
from fmlfast.data.frames import Frames
from fmlfast.data.shards import list_clips, read_clip, read_truth
from fmlfast.model.fml import FML
from fmlfast.model.pretrained import default_checkpoint
from fmlfast.model.skin_tone import ASSETS, observe_skin, regression_terms
from fmlfast.template.face_template import FaceTemplate

RIDGE = 1.0  # of standardised terms
BATCH = 25
STRETCHES = tuple(1 + 0.02 * k for k in range(36))
FAIR = 1.2  # ratio of the largest to the smallest error of a third


@torch.no_grad()
def observations(model: FML, folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Computes features [P, M, N] and the true logarithm of the face's mean reflectance [P, 3] of a split."""
    truth, refs = read_truth(folder, split), list_clips(folder, split)
    features, tones = [], []
    face = FaceTemplate.default(0).regions["face"]
    for start in range(0, len(refs), BATCH):
        clips = [read_clip(ref) for ref in refs[start : start + BATCH]]
        frames = Frames.from_clips(clips, model.config.image_size)
        codes = model.codes(model.observe(frames))
        camera, pattern = model.camera_vertices(codes).flatten(0, 1), model.pattern(codes)
        product = model.fit_light_times_tone(frames, camera, pattern)
        features.append(observe_skin(model.template, frames, camera, pattern, product)[1])
        skin = torch.stack([torch.from_numpy(truth[clip.key]["reflectance"]).float() for clip in clips])
        tones.append((torch.einsum("v,bvc->bc", face / face.sum(), skin)).log())
    return torch.cat(features), torch.cat(tones)


def averaged(features: Tensor, tones: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Averages the features over `count` frames at a time: [P * M / count, N], and the tones that go with them."""
    parts = features.unflatten(1, (-1, count)).mean(2)
    return parts.flatten(0, 1), tones.repeat_interleave(parts.shape[1], 0)


def stretched(solution: Tensor, middle: Tensor, terms: Tensor, tones: Tensor) -> Tensor:
    """Stretches the estimates around `middle` [3] so that the third of tones that they are worst for errs least.

    A regression pulls towards the mean: dark skin would come out lighter than it is, and light skin darker. Thirds that
    differ by more than FAIR cost more.
    """
    third = torch.bucketize(tones.mean(1), torch.quantile(tones.mean(1), torch.tensor([1 / 3, 2 / 3])))

    def moved(factor: float) -> Tensor:
        other = factor * solution
        other[0] += (1 - factor) * middle
        return other

    def cost(factor: float) -> float:
        errors = (terms @ moved(factor) - tones).square().mean(1)
        thirds = [float(errors[third == k].mean()) ** 0.5 for k in range(3)]
        return max(thirds) * max(1.0, max(thirds) / min(thirds) / FAIR)

    return moved(min(STRETCHES, key=cost))


def main(folders: list[Path]) -> None:
    model = FML.load(default_checkpoint())
    fitted, held = ([observations(model, folder, split) for folder in folders] for split in ("train", "val"))
    features, tones = (torch.cat(parts) for parts in zip(*fitted, strict=True))
    frames = features.shape[1]
    x, y = (torch.cat(parts) for parts in zip(*(averaged(features, tones, n) for n in (1, frames)), strict=True))
    center, scale = x.mean(0), x.std(0).clamp(min=1e-3)
    terms = regression_terms(x, center, scale)
    # As many frames alone as people with all frames: each kind counts half.
    weights = torch.cat([torch.full((len(features) * frames,), 1 / frames), torch.ones(len(features))])[:, None]
    system = terms.T @ (weights * terms) + RIDGE * torch.eye(terms.shape[1])
    solution = torch.linalg.solve(system, terms.T @ (weights * y))
    middle = (weights * y).sum(0) / weights.sum()
    solution = stretched(solution, middle, terms, y)
    features, tones = (torch.cat(parts) for parts in zip(*held, strict=True))
    errors = []
    for count in (1, frames):
        seen, wanted = averaged(features, tones, count)
        errors.append((regression_terms(seen, center, scale) @ solution - wanted).square().mean())
        print(f"{count} frames: error of the logarithm {float(errors[-1].sqrt()):.3f}")
    print(f"one tone for all: {float((tones - y.mean(0)).square().mean().sqrt()):.3f}")
    alone = (errors[0] - errors[1]).clamp(min=0) * frames / (frames - 1)
    known = {"center": center, "scale": scale, "weights": solution.contiguous()}
    known |= {"range": torch.stack([y.amin(0), y.amax(0)]), "variance": torch.stack([errors[0] - alone, alone])}
    with atomic_path(ASSETS) as path:
        write_tensors(path, known)
        path.chmod(0o644)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main([Path(folder) for folder in sys.argv[1:]])
