"""Trains the landmark network on synthetic people and writes fmlfast/data/landmarks.safetensors, which ships.

    python -m fmlfast.data.synthetic --out data/points-0 --people 8000 --frames 2 --size 160 --seed 1000 ...
    python tools/train_landmark_network.py data/points-0 data/points-1 --steps 8000

The folders' training people teach the network, all but the last `--held-out` people of each. These show how far it
errs, and what the detector's scores tell of expressions. `make train` and the tests use seed 0: other people.
"""

from dataclasses import fields
from pathlib import Path

import fmlfast.common.passive_waiting  # noqa: F401  (before torch)

import torch
import torch.nn.functional as F
import tyro
from landmark_training import MARGIN, Crops, train
from score_calibration import measure_scores
from torch import Tensor

from fmlfast.camera import project
from fmlfast.common.atomic import atomic_path
from fmlfast.common.tensor_file import write_tensors
from fmlfast.data.landmark_assets import landmark_assets
from fmlfast.data.landmark_network import CROP, LandmarkNetwork, align_points
from fmlfast.data.mediapipe478 import NUM_POINTS, TO_IBUG68
from fmlfast.data.shards import list_clips, read_clip, read_truth
from fmlfast.template.face_template import FaceTemplate

OUT = Path(__file__).parents[1] / "fmlfast" / "data" / "landmarks.safetensors"
STORED = round(CROP * MARGIN)


def read_crops(folder: Path, canonical: Tensor) -> tuple[Crops, Tensor, Tensor]:
    """Reads the training people of a folder: crops, scores [N, 52], true expressions [N, E]."""
    template, truth = FaceTemplate.default(1), read_truth(folder, "train")
    every = torch.arange(NUM_POINTS)
    parts, scores, expressions = [], [], []
    for person, ref in enumerate(list_clips(folder, "train")):
        clip = read_clip(ref)
        if clip.detection is None:
            raise ValueError(f"{folder} was made without the face detector; install the video extra and make it anew")
        seen, known = clip.detection, {k: torch.from_numpy(v).float() for k, v in truth[ref.key].items()}
        found = torch.from_numpy(seen.found)
        if not found.any():
            continue
        neutral = template.subdivide(known["vertices"])
        shapes = neutral + torch.einsum("me,evc->mvc", known["expression"], template.expressions)
        camera = shapes @ known["rotation"].mT + known["translation"][:, None]
        surface = project(template.surface_points(camera, every), torch.from_numpy(clip.Ks))
        targets = torch.cat([surface, known["landmarks"]], 1)[found]
        points = torch.from_numpy(seen.points)[found]
        matrix, offset = align_points(canonical, points)
        inside = matrix / matrix[:, 0].square().sum(1)[:, None, None]
        size = clip.images.shape[1]
        theta = torch.cat([matrix * (2 * MARGIN / size), (offset * (2 / size) - 1)[..., None]], 2)
        grid = F.affine_grid(theta, [len(points), 3, STORED, STORED], align_corners=False)
        images = torch.from_numpy(clip.images).permute(0, 3, 1, 2)[found].float()
        images = F.grid_sample(images, grid, padding_mode="border", align_corners=False).round().byte()
        owner = torch.full((len(points),), person)
        parts.append(Crops(images, (points - offset[:, None]) @ inside, (targets - offset[:, None]) @ inside, owner))
        scores.append(torch.from_numpy(seen.scores)[found])
        expressions.append(known["expression"][found])
    return joined(parts), torch.cat(scores), torch.cat(expressions)


def joined(parts: list[Crops]) -> Crops:
    """Concatenates crops."""
    return Crops(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Crops)))


def write_assets(network: LandmarkNetwork, scores: dict[str, Tensor]) -> None:
    """Writes the network's weights in half precision, and what the scores tell."""
    weights = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    small = {name: x.half() if x.is_floating_point() and x.ndim > 1 else x for name, x in (weights | scores).items()}
    with atomic_path(OUT) as temporary:
        write_tensors(temporary, small)
        temporary.chmod(0o644)


def main(
    data: tyro.conf.Positional[list[Path]],
    steps: int = 8000,
    rate: float = 2e-3,
    held_out: int = 300,
    seed: int = 0,
    go_on: bool = False,
) -> None:
    """Trains, measures and writes.

    Args:
        data: folders of synthetic clips with detections.
        steps: of 64 crops.
        rate: peak learning rate, which falls to 0 by a cosine.
        held_out: people of each folder that are not trained on.
        seed: of the training.
        go_on: start from the shipped network instead of random weights.
    """
    network = LandmarkNetwork.load().requires_grad_(True) if go_on else LandmarkNetwork()
    network.canonical.copy_(landmark_assets()["network.canonical"])
    network.reduce.copy_(torch.from_numpy(TO_IBUG68))
    read = {folder.name: read_crops(folder, network.canonical) for folder in data}
    learned, others, scores, expressions = [], {}, [], []
    for name, (crops, told, truth) in read.items():
        late = crops.person > crops.person.max() - held_out
        learned.append(crops.select(~late))
        others[name] = crops.select(late)
        scores.append(told[late])
        expressions.append(truth[late])
    told = measure_scores(torch.cat(scores), torch.cat(expressions), FaceTemplate.default(0).expression_names)
    train(network, joined(learned), others, steps, rate, seed, lambda network: write_assets(network, told))
    print(f"{OUT}: {OUT.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
