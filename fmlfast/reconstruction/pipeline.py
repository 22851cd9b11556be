"""Reconstructs a face from photos and videos of one person: detect, crop, encode, refine, write.

The module is not called `reconstruct`, because importing it would then replace the function `fmlfast.reconstruct`.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fmlfast.camera import project
from fmlfast.common.atomic import atomic_path
from fmlfast.data.crop import K_to_crop, crop_image, crop_to_source, face_crop, points_to_crop
from fmlfast.data.detection import Detection, detection_to_crop
from fmlfast.data.face_detector import FaceDetector
from fmlfast.data.frames import Frames
from fmlfast.data.shards import Clip
from fmlfast.mesh_io import SUFFIXES, write_mesh
from fmlfast.metrics import landmark_nme
from fmlfast.model.codes import Codes
from fmlfast.model.config import load_template
from fmlfast.model.fml import FML
from fmlfast.model.lighting import ambient_factor
from fmlfast.model.pretrained import default_checkpoint
from fmlfast.model.skin_tone import skin_tone_deviation
from fmlfast.reconstruction.focal_length import Cameras
from fmlfast.reconstruction.inputs import Photo, Picture, read_photos
from fmlfast.reconstruction.personal_reflectance import fit_detail
from fmlfast.reconstruction.refinement import refine as refine_codes
from fmlfast.reconstruction.texture import bake_texture, check_size
from fmlfast.reconstruction.texture_zones import unhidden
from fmlfast.renderer import shade_vertices
from fmlfast.template.face_template import FaceTemplate
from fmlfast.version import __version__
from fmlfast.visualization.appearance import Albedo, TextureAlbedo, VertexAlbedo
from fmlfast.visualization.overlay import face_opacity, overlay, panel

CONVENTIONS = (
    "mm; camera +x right, +y down, +z forward; X_camera = R X_model + t; pixel centres at +0.5; linear RGB = "
    "reflectance * a * (H(n) @ sh), a = ambient_factor(template), H = [1, x, y, z, xy, xz, yz, x^2-y^2, 3z^2-1], n the "
    "unit normal in the camera frame"
)

DETAIL_SIZE = 256  # px, side of the crops that the reflectance's detail is fitted to: the finest mesh shows no more


@dataclass(frozen=True)
class Reconstruction:
    """One person's face in N photos (or video frames): identity and reflectance, pose, expression and light per photo.

    Vertices are in millimetres. The model frame has +x to the subject's left, +y up and +z out of the face; the camera
    frame of a photo has +x right, +y down and +z forward, X_camera = R X_model + t with R and t in `codes`.
    """

    names: tuple[str, ...]
    """Unique name of each photo; from the file names."""
    photos: tuple[np.ndarray, ...]
    """uint8 [H, W, 3] sRGB each."""
    landmarks: np.ndarray
    """[N, 68, 2] detected landmarks, pixels of the photo, iBUG 68 order."""
    times: tuple[float | None, ...]
    """Seconds from the start of the video for video frames; None for photos."""
    landmark_errors: np.ndarray
    """[N] distance of the face's landmarks from the detected ones, in % of the outer-eye distance: see `landmark_nme`;
    66 points weighted by the detector's confidence, the jaw line on the silhouette."""
    network_landmark_errors: np.ndarray
    """[N] the same before refinement."""
    Ks: np.ndarray
    """[N, 3, 3] float32 intrinsics of the photos, pixels."""
    focal_sources: tuple[str, ...]
    """Source of each photo's focal length: see `Cameras.sources`."""
    model: str
    """SHA-256 of the model.safetensors that the codes belong to."""
    codes: Codes
    """Codes of one subject in N frames, on the CPU."""
    template: FaceTemplate
    """Topology of all meshes below."""
    neutral: Tensor
    """[V, 3] mm, vertices without expression, model frame."""
    vertices: Tensor
    """[N, V, 3] mm, vertices with expression, model frame."""
    camera_vertices: Tensor
    """[N, V, 3] mm, vertices with expression, camera frame."""
    reflectance: Tensor
    """[V, 3] linear RGB."""
    shaded: Tensor
    """[N, V, 3] linear RGB, reflectance under the light of each photo."""

    texture: np.ndarray | None = None
    """[S, S, 3] uint8 sRGB base colour for the template's uv: see `Texture`; None without one."""
    texture_confidence: np.ndarray | None = None
    """[S, S] float32 0..1, the photos' share in each texel."""

    def albedo(self) -> Albedo:
        """Returns the texture on the template's uv, or the reflectance of the vertices without one."""
        if self.texture is None:
            return VertexAlbedo(self.reflectance)
        return TextureAlbedo.of(self.template.uv, self.texture)

    @property
    def skin(self) -> Tensor:  # [3]
        """Mean reflectance of the face, linear RGB."""
        face = self.template.regions["face"]
        return face @ self.reflectance / face.sum()

    def overlay(self, index: int) -> np.ndarray:
        """Renders the face over photo `index`, [H, W, 3] uint8 sRGB."""
        return overlay(*self._seen(index))

    def panel(self, index: int) -> np.ndarray:
        """Renders photo `index`, overlay, geometry, reflectance and the face relit side by side, uint8 sRGB."""
        return panel(*self._seen(index))

    def _seen(self, index: int) -> tuple[np.ndarray, Tensor, Tensor, Albedo, Tensor, Tensor, Tensor, Tensor]:
        """Collects what `overlay` and `panel` draw of photo `index`."""
        return (
            self.photos[index],
            self.camera_vertices[index],
            self.template.triangles,
            self.albedo(),
            self.codes.sh[0, index],
            ambient_factor(self.template),
            torch.from_numpy(self.Ks[index]),
            face_opacity(self.template),
        )

    def parameters(self) -> dict[str, object]:
        """Returns codes, cameras, poses, light, expressions and landmarks as JSON types.

        In `identity`, coefficients of smooth fields follow those of the learned basis. `skin` holds the mean albedo of
        the face, linear RGB, and the standard deviation of its logarithm: images leave skin tone and light uncertain.
        """
        codes, template = self.codes, self.template
        photos = [
            {
                "name": name,
                "time": self.times[i],
                "width": photo.shape[1],
                "height": photo.shape[0],
                "K": self.Ks[i].tolist(),
                "focal_source": self.focal_sources[i],
                "R": codes.rotation[0, i].tolist(),
                "t": codes.translation[0, i].tolist(),
                "sh": codes.sh[0, i].tolist(),
                "expression": dict(zip(template.expression_names, codes.expression[0, i].tolist(), strict=True)),
                "landmarks": self.landmarks[i].tolist(),
                "landmark_error": float(self.landmark_errors[i]),
                "landmark_error_before_refinement": float(self.network_landmark_errors[i]),
            }
            for i, (name, photo) in enumerate(zip(self.names, self.photos, strict=True))
        ]
        return {
            "fmlfast": __version__,
            "model": self.model,
            "template": {"name": template.name, "level": template.level, "fingerprint": template.fingerprint},
            "conventions": CONVENTIONS,
            "identity": codes.identity[0].tolist(),
            "reflectance": codes.reflectance[0].tolist(),
            "skin": {
                "albedo": self.skin.tolist(),
                "log_deviation": float(skin_tone_deviation(torch.ones(1, len(self.names), dtype=torch.bool))),
            },
            "photos": photos,
        }

    def save(self, folder: str | Path) -> None:
        """Writes overlays, meshes and parameters into a new folder, whole or not at all.

        For each photo `overlay-NAME.png` (at the photo's full size), `panel-NAME.png` and `mesh-NAME.ply|obj|glb` (with
        expression, model frame, reflectance as vertex colours); `neutral.ply|obj|glb`; `texture.png`, where there is a
        texture; `parameters.json`.

        Raises FileExistsError when `folder` exists.
        """
        with atomic_path(check_new(folder)) as temporary:
            temporary.mkdir()
            for i, name in enumerate(self.names):
                Image.fromarray(self.overlay(i)).save(temporary / f"overlay-{name}.png")
                Image.fromarray(self.panel(i)).save(temporary / f"panel-{name}.png")
            if self.texture is not None:
                Image.fromarray(self.texture).save(temporary / "texture.png")
            meshes = [("neutral", self.neutral)]
            meshes += [(f"mesh-{name}", points) for name, points in zip(self.names, self.vertices, strict=True)]
            for name, points in meshes:
                for suffix in SUFFIXES:
                    uv = self.template.uv if suffix == ".glb" else None  # readers of others would expect a texture
                    write_mesh(temporary / f"{name}{suffix}", points, self.template.triangles, self.reflectance, uv)
            (temporary / "parameters.json").write_text(json.dumps(self.parameters(), indent=1) + "\n")


@torch.no_grad()
def reconstruct(
    images: Picture | Iterable[Picture],
    checkpoint: str | Path | None = None,
    *,
    face: int | None = None,
    refine: int = 50,
    frames: int = 8,
    texture: int = 1024,
) -> Reconstruction:
    """Reconstructs one person's face from photos and videos, jointly, with one identity for all.

    A focal length that is not in a photo's EXIF data is estimated from the perspective of the face before refinement.
    Photos of one size, in portrait or landscape format, are assumed to be from one camera and share one correction of
    the guess, since several faces determine it better than one; without refinement the guess stays.

    Args:
        images: one or several paths of photos in any format that Pillow reads and of videos that PyAV reads, or uint8
            [H, W, 3] sRGB arrays; all of the same person.
        checkpoint: a run folder of train.py; None for the model that comes with the package.
        face: which face to take in photos that show several, counted from 0 at the left.
        refine: steps of test-time refinement; 0 takes the encoder's prediction.
        frames: how many frames to take of each video at most; evenly spread, and good ones only.
        texture: side of the texture to bake, texels, a power of two from 64 to 4096; 0 for none. A template whose uv
            overlap gets none.

    Returns:
        The reconstruction, on the CPU; nothing is written before its `save`.

    Raises:
        FileNotFoundError: an image or the checkpoint does not exist.
        ValueError: an image cannot be read, shows no face, or several and `face` selects none of them; a video has no
            good frame; the checkpoint is invalid or belongs to another template; the texture is too small or large.
    """
    images = [images] if isinstance(images, Picture) else list(images)
    if not images:
        raise ValueError("no images given; name at least one photo or video of the person")
    if texture:
        check_size(texture)  # before the work, not after it
    device = "cuda" if torch.cuda.is_available() else "cpu"
    checkpoint = Path(checkpoint or default_checkpoint())
    model = FML.load(checkpoint, device)
    digest = hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()
    with FaceDetector() as detector:
        photos = read_photos(images, detector, face, frames)
    cameras, size = Cameras.of(photos), model.config.image_size
    seen = Frames.from_clips([_clip(photos, cameras.Ks, size)], size).to(device)
    if refine > 0:
        cameras, seen = cameras.estimated(model, seen, photos)
    start = model.encode(seen)
    codes = refine_codes(model, seen, start, refine)
    errors = [_landmark_errors(model, seen, answer) for answer in (start, codes)]
    if refine > 0:
        sharp = _detail_size(photos, size)
        codes = fit_detail(model, Frames.from_clips([_clip(photos, cameras.Ks, sharp)], sharp).to(device), codes)
    model, codes = model.cpu(), codes.to("cpu")
    template = _finest(model)
    reflectance = model.reflectance(codes, template)[0]
    camera = model.camera_vertices(codes, template)[0]
    occluded = reflectance * ambient_factor(template)[:, None]
    shaded, _ = shade_vertices(camera, template.triangles, occluded[None], codes.sh[0])
    images, Ks = [photo.image for photo in photos], torch.from_numpy(cameras.Ks)
    learned = model.reflectance(replace(codes, detail=codes.detail[:, :0]), template)[0]
    base = unhidden(template, reflectance, learned)
    baked = bake_texture(template, images, camera, Ks, codes.sh[0], base, texture) if texture else None
    return Reconstruction(
        names=tuple(photo.name for photo in photos),
        photos=tuple(images),
        landmarks=np.stack([photo.face.landmarks for photo in photos]),
        times=tuple(photo.time for photo in photos),
        landmark_errors=errors[1],
        network_landmark_errors=errors[0],
        Ks=cameras.Ks,
        focal_sources=cameras.sources,
        model=digest,
        codes=codes,
        template=template,
        neutral=model.neutral(codes, template)[0],
        vertices=model.geometry(codes, template)[0],
        camera_vertices=camera,
        reflectance=reflectance,
        shaded=shaded,
        texture=baked.image if baked else None,
        texture_confidence=baked.confidence if baked else None,
    )


def check_new(folder: str | Path) -> Path:
    """Returns `folder` as a path; raises FileExistsError when it exists already."""
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists; remove it or choose another output")
    return folder


def _finest(model: FML) -> FaceTemplate:
    """Loads the mesh to write: the finest level for a model of the base mesh, else the model's own."""
    return load_template(replace(model.config, level=2)) if model.config.level == 0 else model.template


def _detail_size(photos: Sequence[Photo], size: int) -> int:
    """Chooses the side of crops for the reflectance's detail, px: the sharpest photo's own, within limits."""
    sharpest = max(face_crop(photo.face.landmarks).side for photo in photos)
    return round(min(max(sharpest, size), DETAIL_SIZE))


def _clip(photos: Sequence[Photo], Ks: np.ndarray, size: int) -> Clip:
    """Crops the photos to their faces, as one clip of one subject."""
    faces = [photo.face for photo in photos]
    crops = [face_crop(item.landmarks) for item in faces]
    return Clip(
        key="photos",
        subject="photos",
        source="photos",
        images=np.stack([crop_image(photo.image, crop, size) for photo, crop in zip(photos, crops, strict=True)]),
        landmarks=np.stack([points_to_crop(f.landmarks, crop, size) for f, crop in zip(faces, crops, strict=True)]),
        confidence=np.stack([item.confidence for item in faces]).astype(np.float32),
        Ks=np.stack([K_to_crop(K, crop, size) for K, crop in zip(Ks, crops, strict=True)]),
        crop_to_source=np.stack([crop_to_source(crop, size) for crop in crops]),
        times=np.array([photo.time or 0.0 for photo in photos], np.float32),
        focal_source="assumed",
        detection=Detection.stack([detection_to_crop(f.detection, c, size) for f, c in zip(faces, crops, strict=True)]),
    )


def _landmark_errors(model: FML, frames: Frames, codes: Codes) -> np.ndarray:
    """Computes the landmark error of each frame of one subject, [M] in % of the outer-eye distance."""
    Ks, mesh = frames.Ks[0], model.landmark_mesh
    points = project(mesh.slide_landmarks(model.camera_vertices(codes, mesh)[0], Ks), Ks)
    return landmark_nme(points, frames.landmarks[0], frames.confidence[0].clamp(min=1e-3)).cpu().numpy()
