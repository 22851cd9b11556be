"""Shows people of videos in frames that were not fitted: identity, reflectance and texture from other frames, frozen.

python -m benchmarks.paper.unfitted_frames VIDEO... --out FOLDER: writes FOLDER/unfitted_frames.json and a picture

Every other one of eight frames of a video gives the person, as `fmlfast reconstruct` does. Each frame between gives
its pose and expression, from itself alone. Light is fitted to each appearance by robust least squares on its pixels, so
that appearances differ in albedo only. Errors are mean absolute differences of sRGB in 0..255 over what an overlay
shows opaquely: the face without scalp, ears and neck. Hair over the forehead counts.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from torch import Tensor
from torch.nn.functional import normalize
from tyro.conf import Positional

from fmlfast.color import linear_to_srgb, srgb_to_linear
from fmlfast.common.atomic import atomic_path
from fmlfast.common.progress import ProgressBar
from fmlfast.data.crop import K_to_crop, crop_image, face_crop
from fmlfast.data.face_detector import FaceDetector
from fmlfast.kernels.shading import sh_basis
from fmlfast.metrics import photometric_error
from fmlfast.model.fml import FML
from fmlfast.model.lighting import ambient_factor, fit_light
from fmlfast.model.pretrained import default_checkpoint
from fmlfast.reconstruction.inputs import read_photos
from fmlfast.reconstruction.pipeline import reconstruct
from fmlfast.renderer import interpolate, rasterize, vertex_normals
from fmlfast.template.face_template import FaceTemplate
from fmlfast.visualization.appearance import Albedo, VertexAlbedo
from fmlfast.visualization.overlay import face_opacity
from fmlfast.visualization.panels import save_image, tile

FRAMES = 8  # of each video
SIZE = 256  # px, side of the crops that are compared


@dataclass(frozen=True)
class Shown:
    """A face over a crop of a photo."""

    image: Tensor
    """[S, S, 3] sRGB."""
    error: float
    """0..255."""


def show(
    template: FaceTemplate,
    albedo: Albedo,
    vertices: Tensor,  # [V, 3] mm, camera frame
    K: Tensor,  # [3, 3] of the crop
    opacity: Tensor,  # [V] of the overlay
    target: Tensor,  # [S, S, 3] sRGB
) -> Shown:
    """Renders an appearance in a crop under the light that fits it best."""
    triangles, size = template.triangles, len(target)
    normals = vertex_normals(vertices[None], triangles)[0]
    fragments = rasterize(vertices[None], triangles, K[None], size, size)
    inside = opacity[triangles.long()].amin(1) > 0.5  # [T]
    triangle = fragments.triangle_id[0].long()
    mask = (triangle >= 0) & inside[triangle.clamp(min=0)]
    fields = torch.cat([normals, ambient_factor(template)[:, None], albedo.attributes], 1)[None].contiguous()
    values = interpolate(fields, triangles, fragments)[0][mask]
    normal, color = normalize(values[:, :3], dim=1)[None], albedo.lookup(values[:, 4:])[None] * values[None, :, 3:4]
    light = fit_light(srgb_to_linear(target[mask])[None], color, normal, torch.ones(color.shape[:2]))
    image = target.clone()
    image[mask] = linear_to_srgb((color[0] * (sh_basis(normal[0]) @ light[0])).clamp(0, 1))
    return Shown(image, float(photometric_error(image[None], target[None], mask[None])))


@torch.no_grad()
def compare(model: FML, checkpoint: Path, images: list[np.ndarray]) -> tuple[dict[str, list[float]], Tensor]:
    """Reconstructs every other frame and shows the person in the rest: errors by appearance, and pictures [3, S, S, 3].

    The pictures are one unfitted frame, and the face with vertex colours and with the texture over it.
    """
    person = reconstruct(images[::2], checkpoint)
    opacity = face_opacity(person.template)
    errors: dict[str, list[float]] = {"vertices": [], "texture": []}
    pictures = torch.zeros(0)
    for image in images[1::2]:
        alone = reconstruct(image, checkpoint, texture=0)
        codes = replace(alone.codes, identity=person.codes.identity)
        vertices = model.camera_vertices(codes, person.template)[0, 0]
        crop = face_crop(alone.landmarks[0])
        K = torch.from_numpy(K_to_crop(alone.Ks[0], crop, SIZE))
        target = torch.from_numpy(crop_image(image, crop, SIZE).copy()).float() / 255
        looks = {"vertices": VertexAlbedo(person.reflectance), "texture": person.albedo()}
        found = {name: show(person.template, albedo, vertices, K, opacity, target) for name, albedo in looks.items()}
        for name, shown in found.items():
            errors[name].append(shown.error)
        pictures = torch.stack([target, *(shown.image for shown in found.values())])
    return errors, pictures


def main(videos: Annotated[list[Path], Positional], /, out: Path, run: Path | None = None) -> None:
    """Compares unfitted frames of videos of one person each, and prints the errors.

    Args:
        videos: Video files.
        out: Folder for unfitted_frames.json and unfitted_frames.png, the last frame of each video.
        run: Run folder of a model; without one, the model that comes with the package.
    """
    checkpoint = run or default_checkpoint()
    model = FML.load(checkpoint)
    rows, pictures = {}, []
    for video in ProgressBar(videos, unit="video"):
        with FaceDetector() as detector:
            images = [photo.image for photo in read_photos([video], detector, 0, FRAMES)]
        if len(images) < 2:
            print(f"{video} has fewer than two good frames; left out")
            continue
        errors, shown = compare(model, checkpoint, images)
        rows[video.stem] = {name: round(float(np.mean(values)), 2) for name, values in errors.items()}
        pictures.append(shown)
        ProgressBar.write(f"{video.stem}: {rows[video.stem]}")
    if not rows:
        raise SystemExit("no video shows one face in two good frames; give longer or sharper videos")
    means = {name: round(float(np.mean([row[name] for row in rows.values()])), 2) for name in ("vertices", "texture")}
    print(f"mean over {len(rows)} videos: {means}")
    out.mkdir(parents=True, exist_ok=True)
    with atomic_path(out / "unfitted_frames.json") as path:
        path.write_text(json.dumps({"mean": means, "videos": rows}, indent=2) + "\n")
    save_image(out / "unfitted_frames.png", tile(torch.stack(pictures), ("photo", "vertices", "texture")))


if __name__ == "__main__":
    tyro.cli(main)
