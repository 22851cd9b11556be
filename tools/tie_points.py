"""Ties the face detector's 478 points to the template and stores the tie in fmlfast/template/template.npz.

    python -m fmlfast.data.synthetic --out data/points-0 --people 4000 --frames 2 --seed 1000 ...
    python tools/tie_points.py data/points-0 data/points-1

Reads synthetic clips with the detector's raw points and the true faces. The landmark network learns these surface
points, so it must be trained anew after them (tools/train_landmark_network.py).
"""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import fmlfast.common.passive_waiting  # noqa: F401  (before torch)

import numpy as np
import torch
import tyro

from fmlfast.common.atomic import atomic_path
from fmlfast.data.shards import list_clips, read_clip, read_truth
from fmlfast.data.synthetic.tie import Hits, Tie, find_hits, tie_points
from fmlfast.evaluation.protocol import true_faces
from fmlfast.template.assets import FILE, load_assets
from fmlfast.template.face_template import FaceTemplate
from fmlfast.template.surface import points_at


@dataclass(frozen=True)
class Settings:
    """Settings of the command line."""

    data: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of synthetic clips with detections; their training people are read."""
    out: Path = FILE
    """The npz to write: the shipped template with the new tie."""
    limit: int | None = None
    """Largest number of people to read of each folder."""


def read_hits(folder: Path, template: FaceTemplate, limit: int | None = None) -> Hits:
    """Collects the hits of the training people of a folder, at most `limit` of them."""
    truth, parts = read_truth(folder, "train"), []
    for ref in islice(list_clips(folder, "train"), limit):
        clip = read_clip(ref)
        if clip.detection is None:
            raise ValueError(f"{folder} was made without the face detector; install the video extra and make it anew")
        found = torch.from_numpy(clip.detection.found)
        if not found.any():
            continue
        faces = true_faces(truth, [clip], template)
        posed = (faces.posed @ faces.rotation.mT + faces.translation[:, None])[found].contiguous()
        Ks, points = torch.from_numpy(clip.Ks)[found], torch.from_numpy(clip.detection.points)[found]
        parts.append(find_hits(template, posed, Ks, points, clip.images.shape[1]))
    if not parts:
        raise ValueError(f"the detector found no face in {folder}")
    return Hits.join(parts)


def moved_by(tie: Tie) -> np.ndarray:
    """Computes how far the points lie from the shipped template's, [478] mm; NaN where that has none."""
    assets = load_assets()
    if len(assets["surface_triangles"]) != len(tie.triangles):
        return np.full(len(tie.triangles), np.nan)
    vertices, triangles = assets["vertices"].astype(np.float64), assets["triangles"].astype(np.int64)
    before = points_at(vertices, triangles, assets["surface_triangles"], assets["surface_barycentrics"])
    return np.linalg.norm(points_at(vertices, triangles, tie.triangles, tie.barycentrics) - before, axis=1)


def main(settings: Settings) -> None:
    """Ties the points, prints how far they scatter and move, and writes the file."""
    rendered = FaceTemplate.default(1)
    hits = Hits.join([read_hits(folder, rendered, settings.limit) for folder in settings.data])
    tie = tie_points(FaceTemplate.default(0), hits, symmetric=True)
    print(f"{len(hits.point) / len(tie.triangles):.0f} hits a point, median scatter {np.nanmedian(tie.scatter):.2f} mm")
    moved = moved_by(tie)
    print(f"from the shipped tie: median {np.median(moved):.2f} mm, largest {moved.max():.2f} mm")
    arrays = load_assets() | {
        "surface_triangles": tie.triangles.astype(np.int32),
        "surface_barycentrics": tie.barycentrics.astype(np.float32),
    }
    with atomic_path(settings.out) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]
    print(f"{settings.out}: {len(tie.triangles)} points")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
