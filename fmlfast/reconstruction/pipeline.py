"""Reconstructs a face from photos and videos of one person: detect, crop, encode, refine, write.

The module is not called `reconstruct`, because importing it would then replace the function `fmlfast.reconstruct`.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self, get_args

import numpy as np
import torch

from fmlfast.camera import project
from fmlfast.common.arguments import check_whole
from fmlfast.common.tensors import independent
from fmlfast.data.crop import K_to_crop, crop_image, crop_to_source, face_crop, points_to_crop
from fmlfast.data.detection import Detection, detection_to_crop
from fmlfast.data.face_detector import FaceDetector
from fmlfast.data.frames import Frames
from fmlfast.data.shards import Clip
from fmlfast.metrics import landmark_nme
from fmlfast.model.codes import Codes
from fmlfast.model.config import load_template
from fmlfast.model.fml import FML
from fmlfast.model.pretrained import default_checkpoint
from fmlfast.reconstruction.copies import originals, with_copies
from fmlfast.reconstruction.focal_length import Cameras
from fmlfast.reconstruction.inputs import Photo, Picture, expand_folders, read_everyone, read_photos
from fmlfast.reconstruction.personal_reflectance import fit_detail
from fmlfast.reconstruction.refinement import refine as refine_codes
from fmlfast.reconstruction.result import Reconstruction
from fmlfast.reconstruction.texture import bake_texture, check_size
from fmlfast.reconstruction.texture_zones import unhidden
from fmlfast.template.face_template import FaceTemplate

DETAIL_SIZE = 256  # px, side of the crops that the reflectance's detail is fitted to: the finest mesh shows no more


Topology = Literal["own", "fine"]
"""Vertices of a result: the template's own, in their order, or subdivided ones."""


@independent
@torch.no_grad()
def reconstruct(
    images: Picture | Iterable[Picture],
    checkpoint: str | Path | None = None,
    *,
    face: int | None = None,
    refine: int = 50,
    frames: int = 8,
    texture: int = 1024,
    topology: Topology | None = None,
) -> Reconstruction:
    """Reconstructs one person's face from photos and videos, jointly, with one identity for all.

    A focal length that is not in a photo's EXIF data is estimated from the perspective of the face before refinement.
    Photos of one size, in portrait or landscape format, are assumed to be from one camera and share one correction of
    the guess, since several faces determine it better than one; without refinement the guess stays. Copies of one photo
    count once. Modes of torch that the caller has set, such as autocast and inference mode, change nothing, and torch's
    random state stays as it is.

    Args:
        images: one or several paths of photos in any format that Pillow reads, of folders of such photos and of videos
            that PyAV reads, or uint8 [H, W, 3] sRGB arrays; all of the same person.
        checkpoint: a run folder of train.py; None for the model that comes with the package.
        face: which face to take in photos that show several, counted from 0 at the left.
        refine: steps of test-time refinement; 0 takes the encoder's prediction.
        frames: how many frames to take of each video at most: the best one of each of so many equal time intervals, so
            their times are not even.
        texture: side of the texture to bake, texels, a power of two from 64 to 4096; 0 for none. A template whose uv
            overlap gets none.
        topology: "own" gives the template's own vertices in their order, "fine" subdivided ones: level 2, or the level
            that the model was trained on. None: "own" for a template from a folder, "fine" for the shipped one.

    Returns:
        The reconstruction, on the CPU; nothing is written before its `save`.

    Raises:
        FileNotFoundError: an image or the checkpoint does not exist.
        ValueError: an argument is of another type or out of range; an image cannot be read, shows no face, or several
            and `face` selects none of them; a video has no good frame; the checkpoint is invalid or belongs to another
            template; the texture is too small or large.
    """
    check_whole("frames", frames, 1)
    if face is not None:
        check_whole("face", face, 0)
    images = expand_folders([images] if isinstance(images, Picture) else images)
    if not images:
        raise ValueError("no images given; name at least one photo or video of the person")
    fit = Reconstructor.of(checkpoint, refine, texture, topology)
    with FaceDetector() as detector:
        photos = read_photos(images, detector, face, frames)
    return fit(photos)


@torch.no_grad()
def reconstruct_everyone(
    image: Picture,
    checkpoint: str | Path | None = None,
    *,
    refine: int = 50,
    texture: int = 1024,
    topology: Topology | None = None,
) -> Iterator[Reconstruction]:
    """Reconstructs every face of one photo as a person of its own, from left to right, one after the other.

    Arguments and errors: see `reconstruct`. Raises ValueError for a video.
    """
    fit = Reconstructor.of(checkpoint, refine, texture, topology)
    with FaceDetector() as detector:
        everyone = read_everyone(image, detector)
    for photo in everyone:
        yield fit([photo])


@dataclass(frozen=True)
class Reconstructor:
    """A model, and how to reconstruct with it."""

    model: FML
    digest: str
    """SHA-256 of model.safetensors."""
    device: str
    refine: int
    texture: int
    topology: Topology | None

    @classmethod
    @independent
    def of(cls, checkpoint: str | Path | None, refine: int, texture: int, topology: Topology | None) -> Self:
        """Checks the settings and loads the model, before the work and not after it."""
        check_whole("refine", refine, 0)
        check_whole("texture", texture, 0)
        if texture:
            check_size(texture)
        if topology not in (None, *get_args(Topology)):
            raise ValueError(f"topology must be own or fine, not {topology!r}")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        folder = Path(checkpoint or default_checkpoint())
        model = FML.load(folder, device)
        digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        return cls(model, digest, device, refine, texture, topology)

    @independent
    @torch.no_grad()
    def __call__(self, photos: Sequence[Photo], cameras: Cameras | None = None) -> Reconstruction:
        """Reconstructs the person in `photos`; focal lengths of `cameras` that are not assumed are kept."""
        places = originals(photos)
        distinct = sorted({*places})
        some = [photos[index] for index in distinct]
        found = self._of_distinct(some, (cameras or Cameras.of(photos)).part(distinct))
        return with_copies(found, photos, [distinct.index(place) for place in places])

    def _of_distinct(self, photos: Sequence[Photo], cameras: Cameras) -> Reconstruction:
        """Reconstructs a person from photos none of which is a copy of another."""
        model, device = self.model.to(self.device), self.device
        size = model.config.image_size
        seen = Frames.from_clips([_clip(photos, cameras.Ks, size)], size).to(device)
        if self.refine > 0:
            cameras, seen = cameras.estimated(model, seen, photos)
        start = model.encode(seen)
        codes = refine_codes(model, seen, start, self.refine)
        errors = [_landmark_errors(model, seen, answer) for answer in (start, codes)]
        if self.refine > 0:
            sharp = _detail_size(photos, size)
            codes = fit_detail(model, Frames.from_clips([_clip(photos, cameras.Ks, sharp)], sharp).to(device), codes)
        model, codes = model.cpu(), codes.to("cpu")
        template = _mesh(model, self.topology)
        reflectance = model.reflectance(codes, template)[0]
        images, baked = [photo.image for photo in photos], None
        if self.texture:
            learned = model.reflectance(replace(codes, detail=codes.detail[:, :0]), template)[0]
            camera, Ks = model.camera_vertices(codes, template)[0], torch.from_numpy(cameras.Ks)
            base = unhidden(template, reflectance, learned)
            baked = bake_texture(template, images, camera, Ks, codes.sh[0], base, self.texture)
        return Reconstruction(
            names=tuple(photo.name for photo in photos),
            photos=tuple(images),
            landmarks=np.stack([photo.face.landmarks for photo in photos]),
            times=tuple(photo.time for photo in photos),
            landmark_errors=errors[1],
            network_landmark_errors=errors[0],
            Ks=cameras.Ks,
            focal_sources=cameras.sources,
            model=self.digest,
            codes=codes,
            template=template,
            neutral=model.neutral(codes, template)[0],
            reflectance=reflectance,
            texture=baked.image if baked else None,
            texture_confidence=baked.confidence if baked else None,
            template_folder=None if model.config.template == "default" else Path(model.config.template).resolve(),
            template_unit=model.config.template_unit,
        )


def _mesh(model: FML, topology: Topology | None) -> FaceTemplate:
    """Loads the mesh of the result: the template's own vertices, or subdivided ones."""
    own = topology == "own" or (topology is None and model.config.template != "default")
    level = 0 if own else model.config.level or 2
    return model.template if level == model.config.level else load_template(replace(model.config, level=level))


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
