"""Photographs people of another head model on that model's own mesh, as a set of scans with photos to evaluate on.

    python tools/film_head_model.py ict_facekit_light.npz strangers --people 10
    fmlfast evaluate RUN --scans strangers

Shape, mesh and pictures owe nothing to this project's template or generator: plain skin colours by part, soft light
from the camera's side, grey backdrop. Input as tools/register_population.py takes it. Output in the layout "folder" of
fmlfast.evaluation.scans.datasets: `scan.ply` is the neutral face, and the photos show it from other sides; `focal.txt`
holds the true focal length in pixels, which the photos do not tell. The set does not belong into the repository.
"""

from dataclasses import dataclass
from pathlib import Path

import fmlfast.common.passive_waiting  # noqa: F401  (before torch)

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from PIL import Image

from fmlfast.color import linear_to_srgb
from fmlfast.common.atomic import atomic_folder
from fmlfast.data.synthetic.motion import rotation_from_angles
from fmlfast.mesh_io import write_mesh
from fmlfast.renderer import rasterize, render, shade_sh, vertex_normals

Array = NDArray[np.float64]

SIDE, SPAN = 512, 330.0  # px; mm that a photo shows at the face's distance
DRAWN = ("M_Face", "M_BackHead", "M_GumsTongue", "M_Teeth", "M_ScleraLeft", "M_ScleraRight")
PAINT = {"M_Sclera": (0.75, 0.72, 0.7), "M_Teeth": (0.6, 0.56, 0.5), "M_Gums": (0.3, 0.1, 0.09)}
IRIS, IRIS_MM = (0.06, 0.04, 0.03), 6.0
SKIN, LIPS, BROWS = (0.5, 0.31, 0.23), (0.42, 0.16, 0.14), (0.08, 0.05, 0.04)
BROW_MM, LIP_MM = 2.5, 3.5
MOST = 2.5  # standard deviations of a mode


@dataclass(frozen=True)
class Settings:
    """Settings of the command line."""

    model: tyro.conf.Positional[Path]
    """ICT-FaceKit light as one npz."""
    out: tyro.conf.Positional[Path]
    """Folder to write; must not exist."""
    people: int = 10
    """Number of people."""
    photos: int = 4
    """Photos of each."""
    seed: int = 0
    """Seed of shapes, poses, cameras and light."""


def paint(
    mean: Array,  # [V, 3] mm
    faces: NDArray[np.int64],  # [T, 3]
    material: NDArray[np.str_],  # [T] names
    marks: Array,  # [68, 3] mm
    tone: float,
) -> Array:  # [V, 3] linear RGB
    """Colours the vertices by part, with brows and lips where the landmarks are; `tone` scales skin and lips."""
    colors = np.tile(np.array(SKIN) * tone, (len(mean), 1))
    for name, color in PAINT.items():
        colors[np.unique(faces[np.char.startswith(material, name)])] = color
    for side in ("Left", "Right"):
        middle = mean[np.unique(faces[material == f"M_Iris{side}"])].mean(0)
        eye = np.unique(faces[material == f"M_Sclera{side}"])
        colors[eye[np.linalg.norm((mean[eye] - middle)[:, :2], axis=1) < IRIS_MM]] = IRIS
    skin = np.zeros(len(mean), bool)
    skin[np.unique(faces[material == "M_Face"])] = True
    lines = [(marks[17:22], BROWS, BROW_MM, 1), (marks[22:27], BROWS, BROW_MM, 1), (marks[48:60], LIPS, LIP_MM, tone)]
    near = np.flatnonzero(skin & (np.linalg.norm(mean - marks[17:].mean(0), axis=1) < 90))
    for line, color, width, factor in lines:
        ends = np.roll(line, -1, axis=0) if len(line) > 5 else line[1:]
        share = np.linspace(0, 1, 12)[:, None, None]
        dense = ((1 - share) * line[: len(ends)] + share * ends).reshape(-1, 3)
        distance = np.linalg.norm(mean[near, None] - dense[None], axis=2).min(1)
        amount = np.clip(2 - distance / width, 0, 1)[:, None]
        colors[near] += amount * (np.array(color) * factor - colors[near])
    return colors


def seen_vertices(
    mean: Array,  # [V, 3] mm
    faces: NDArray[np.int64],  # [T, 3]
    drawn: NDArray[np.int64],  # [U, 3] what hides and shows
) -> NDArray[np.int64]:  # [N]
    """Lists the vertices of `faces` that a scanner would see: not those inside mouth, nose and eye sockets."""
    turns = np.array([(yaw, pitch, 0.0) for yaw in (-70, -35, 0, 35, 70) for pitch in (-25, 0, 25)])
    camera = (mean - mean.mean(0)) @ rotation_from_angles(turns).transpose(0, 2, 1) + np.array([0.0, 0.0, 1000.0])
    K = torch.tensor([[1500.0, 0, SIDE / 2], [0, 1500.0, SIDE / 2], [0, 0, 1]]).expand(len(turns), 3, 3)
    fragments = rasterize(torch.from_numpy(camera).float(), torch.from_numpy(drawn).int(), K, SIDE, SIDE)
    visible = np.unique(drawn[fragments.triangle_id[fragments.triangle_id >= 0].unique().numpy()])
    return np.intersect1d(np.unique(faces), visible)


def photograph(
    rng: np.random.Generator,
    points: Array,  # [V, 3] mm, around the face's middle
    faces: NDArray[np.int64],  # [T, 3]
    colors: Array,  # [V, 3] linear RGB
    count: int,
) -> tuple[NDArray[np.uint8], float]:
    """Takes `count` photos [N, S, S, 3] sRGB of a head with one camera; returns also its focal length, px."""
    focal = 1.2 * SIDE * float(np.exp(rng.uniform(-0.5, 0.5)))
    angles = np.stack([np.linspace(-30, 30, count) + rng.normal(0, 6, count), rng.normal(0, 8, count)], 1)
    rotation = rotation_from_angles(np.concatenate([angles, rng.normal(0, 5, (count, 1))], 1))
    place = np.concatenate([rng.normal(0, 12, (count, 2)), np.full((count, 1), focal * SPAN / SIDE)], 1)
    camera = points @ rotation.transpose(0, 2, 1) + place[:, None]
    vertices, triangles = torch.from_numpy(camera).float(), torch.from_numpy(faces).int()
    normals = vertex_normals(vertices, triangles)
    light = np.zeros((count, 9, 3))
    light[:, 0] = 0.75
    light[:, 1:4] = rng.normal(0, 0.12, (count, 3, 1)) + np.array([0.0, -0.12, -0.25])[:, None]
    shaded = shade_sh(torch.from_numpy(colors[None]).float(), normals, torch.from_numpy(light).float())
    K = torch.tensor([[focal, 0, SIDE / 2], [0, focal, SIDE / 2], [0, 0, 1]], dtype=torch.float32).expand(count, 3, 3)
    grey = torch.full((3,), float(rng.uniform(0.1, 0.6)))
    cameras = torch.eye(4).expand(count, 4, 4)
    image = render(vertices.contiguous(), triangles, shaded.contiguous(), cameras, K, SIDE, SIDE, background=grey).image
    return (linear_to_srgb(image.clamp(0, 1)) * 255).round().byte().numpy(), focal


def main(settings: Settings) -> None:
    """Draws people and writes their photos and scans."""
    if settings.out.exists():
        raise SystemExit(f"{settings.out} exists; remove it or choose another folder")
    with np.load(settings.model, allow_pickle=False) as stored:
        unit, material, faces = float(stored["unit_mm"]), stored["mat"], stored["faces"].astype(np.int64)
        mean, modes = stored["mean"].astype(np.float64) * unit, stored["ident"].astype(np.float64) * unit
        marked = stored["lm68"]
    drawn, scanned = faces[np.isin(material, DRAWN)], faces[material == "M_Face"]
    kept = seen_vertices(mean, scanned, drawn)
    scanned = scanned[np.isin(scanned, kept).all(1)]
    number = np.zeros(len(mean), np.int64)
    number[kept] = np.arange(len(kept))
    with atomic_folder(settings.out) as folder:
        for person in range(settings.people):
            rng = np.random.default_rng([settings.seed, person])
            amounts = np.clip(rng.standard_normal(len(modes)), -MOST, MOST)
            points = mean + np.einsum("k,kvc->vc", amounts, modes)
            colors = paint(mean, faces, material, mean[marked], float(rng.uniform(0.4, 1.3)))
            own = folder / f"person-{person:03d}"
            own.mkdir(parents=True)
            pictures, focal = photograph(rng, points - points[marked[17:]].mean(0), drawn, colors, settings.photos)
            for index, picture in enumerate(pictures):
                Image.fromarray(picture).save(own / f"photo-{index}.png")
            write_mesh(own / "scan.ply", points[kept], number[scanned])
            np.savetxt(own / "landmarks.txt", points[marked], "%.4f")
            (own / "focal.txt").write_text(f"{focal:.1f}\n")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
