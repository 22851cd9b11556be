"""Holds what is reconstructed of one person, draws it, and saves it to and loads it from a folder."""

import io
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fmlfast.common.atomic import atomic_folder
from fmlfast.common.stored_arrays import check_tensors, read_tensors
from fmlfast.common.tensor_file import write_tensors
from fmlfast.common.tensors import exact
from fmlfast.common.text_files import checked_json
from fmlfast.common.version import __version__
from fmlfast.mesh_io import write_mesh
from fmlfast.model.codes import Codes
from fmlfast.model.lighting import ambient_factor
from fmlfast.model.skin_tone import skin_tone_deviation
from fmlfast.reconstruction.head import Head
from fmlfast.reconstruction.head_files import write_head
from fmlfast.reconstruction.stored_result import (
    DAMAGE,
    FORMAT,
    check_photos,
    load_named_template,
    photo_file,
    read_parameters,
    read_picture,
)
from fmlfast.renderer import shade_vertices
from fmlfast.template.face_template import FaceTemplate
from fmlfast.visualization.appearance import Albedo
from fmlfast.visualization.overlay import face_opacity, overlay, panel

CONVENTIONS = (
    "mm; camera +x right, +y down, +z forward; X_camera = R X_model + t; pixel centres at +0.5; linear RGB = "
    "reflectance * a * (H(n) @ sh), a = ambient_factor(template), H = [1, x, y, z, xy, xz, yz, x^2-y^2, 3z^2-1], n the "
    "unit normal in the camera frame"
)
PARAMETERS, CODES, TEXTURE = "parameters.json", "codes.safetensors", "texture.png"
SHOWN, SHOWN_WIDTH = 3, 1200
"""Photos that a notebook shows of a reconstruction, and the picture's width, px."""


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
    """[N, 68, 2] float32 detected landmarks, pixels of the photo, iBUG 68 order."""
    times: tuple[float | None, ...]
    """Seconds from the start of the video for video frames; None for photos."""
    landmark_errors: np.ndarray
    """[N] float64 distance of the face's landmarks from the detected ones, in % of the outer-eye distance: see
    `landmark_nme`; 66 points weighted by the detector's confidence, the jaw line on the silhouette."""
    network_landmark_errors: np.ndarray
    """[N] float64, the same before refinement."""
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
    reflectance: Tensor
    """[V, 3] linear RGB."""
    texture: np.ndarray | None = None
    """[S, S, 3] uint8 sRGB base colour for the template's uv: see `Texture`; None without one."""
    texture_confidence: np.ndarray | None = None
    """[S, S] float32 0..1, the photos' share in each texel."""
    template_folder: Path | None = None
    """Folder that the template was read from; None for the template that ships with fmlfast."""
    template_unit: str = "mm"
    """Length unit of that folder's files."""

    def __repr__(self) -> str:
        texture = "" if self.texture is None else f", texture {len(self.texture)} px"
        return f"Reconstruction({', '.join(self.names)}; {len(self.neutral)} vertices{texture})"

    def head(self) -> Head:
        """Returns the neutral head with its colours and expressions, to animate, write and view."""
        return Head(self.template, self.neutral, self.reflectance, self.texture)

    @cached_property
    def vertices(self) -> Tensor:
        """Vertices with expression, model frame, [N, V, 3] mm."""
        return self.head().posed(self.codes.expression[0])

    @cached_property
    @exact
    def camera_vertices(self) -> Tensor:
        """Vertices with expression, camera frame, [N, V, 3] mm."""
        return self.vertices @ self.codes.rotation[0].mT + self.codes.translation[0, :, None]

    @cached_property
    def shaded(self) -> Tensor:
        """Reflectance under the light of each photo, [N, V, 3] linear RGB."""
        occluded = self.reflectance * ambient_factor(self.template)[:, None]
        return shade_vertices(self.camera_vertices, self.template.triangles, occluded[None], self.codes.sh[0])[0]

    def albedo(self) -> Albedo:
        """Returns the texture on the template's uv, or the reflectance of the vertices without one."""
        return self.head().albedo()

    @property
    def skin(self) -> Tensor:  # [3]
        """Mean reflectance of the face, linear RGB."""
        face = self.template.regions["face"][:, None]
        return (face * self.reflectance).sum(0) / face.sum()  # no matrix product, which autocast would round

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

    def _repr_png_(self) -> bytes:
        """Draws the panels of the first photos below one another, as PNG: how a notebook shows the reconstruction."""
        rows = []
        for index in range(min(SHOWN, len(self.names))):
            row = Image.fromarray(self.panel(index))
            size = SHOWN_WIDTH, round(row.height * SHOWN_WIDTH / row.width)
            rows.append(row.resize(size, Image.Resampling.LANCZOS))
        sheet, png = np.concatenate([np.asarray(row) for row in rows]), io.BytesIO()
        Image.fromarray(sheet).save(png, "PNG")
        return png.getvalue()

    def parameters(self) -> dict[str, object]:
        """Returns codes, cameras, poses, light, expressions and landmarks as JSON types.

        In `identity`, coefficients of smooth fields follow those of the learned basis. `skin` holds the mean albedo of
        the face, linear RGB, and the standard deviation of its logarithm: images leave skin tone and light uncertain.
        """
        codes, template = self.codes, self.template
        distinct = len(codes.rotation[0].flatten(1).unique(dim=0))  # copies of one photo share its pose
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
            "format": FORMAT,
            "model": self.model,
            "template": {
                "name": template.name,
                "level": template.level,
                "fingerprint": template.fingerprint,
                "folder": self.template_folder and str(self.template_folder),
                "unit": self.template_unit,
            },
            "conventions": CONVENTIONS,
            "identity": codes.identity[0].tolist(),
            "reflectance": codes.reflectance[0].tolist(),
            "skin": {
                "albedo": self.skin.tolist(),
                "log_deviation": float(skin_tone_deviation(codes.sh.new_ones(1, distinct).bool())),
            },
            "photos": photos,
        }

    def save(self, folder: str | Path, *, meshes: bool = True, pictures: bool = True) -> None:
        """Writes pictures, parameters and meshes into a new folder, whole or not at all; `load` reads it again.

        Always `photo-NAME.png` for each photo, `texture.png`, where there is a texture, `parameters.json`, and
        `codes.safetensors` with what it cannot hold. With `pictures` for each photo `overlay-NAME.png`, at its full
        size, and `panel-NAME.png`. With `meshes` `head.glb` and `head.obj`, the textured head without expression (see
        `write_head`), and for each photo `mesh-NAME.glb`, with expression, model frame, vertex colours.

        Raises FileExistsError when `folder` exists.
        """
        with atomic_folder(folder) as temporary:
            for i, name in enumerate(self.names):
                Image.fromarray(self.photos[i]).save(temporary / photo_file(name))
                if pictures:
                    Image.fromarray(self.overlay(i)).save(temporary / f"overlay-{name}.png")
                    Image.fromarray(self.panel(i)).save(temporary / f"panel-{name}.png")
            tensors = {field.name: getattr(self.codes, field.name) for field in fields(Codes)}
            tensors |= {"neutral": self.neutral, "vertex_reflectance": self.reflectance}
            if self.texture is not None and self.texture_confidence is not None:
                Image.fromarray(self.texture).save(temporary / TEXTURE)
                tensors["texture_confidence"] = torch.from_numpy(self.texture_confidence)
            write_tensors(temporary / CODES, tensors)
            (temporary / PARAMETERS).write_text(checked_json(self.parameters()))
            if meshes:
                self._write_meshes(temporary)

    def _write_meshes(self, folder: Path) -> None:
        for name in ("head.glb", "head.obj"):
            write_head(folder / name, self.head())
        for name, points in zip(self.names, self.vertices, strict=True):
            write_mesh(folder / f"mesh-{name}.glb", points, self.template.triangles, self.reflectance)

    @classmethod
    def load(cls, folder: str | Path) -> "Reconstruction":
        """Reads a folder that `save` wrote; everything is equal to what was saved.

        Raises ValueError, naming the folder or file, where it is no such folder, is damaged, was written by another
        version, or its template is missing or another one.
        """
        folder, stored = Path(folder), read_parameters(Path(folder) / PARAMETERS)
        template = load_named_template(folder / PARAMETERS, stored["template"])
        try:
            tensors = read_tensors(folder / CODES)
            photos, texture = stored["photos"], tensors.get("texture_confidence")
            check_photos(photos)
            check_tensors(CODES, tensors, _stored_tensors(template, len(photos), texture is not None))
            result = cls(
                names=tuple(photo["name"] for photo in photos),
                photos=tuple(read_picture(folder / photo_file(photo["name"])) for photo in photos),
                landmarks=np.array([photo["landmarks"] for photo in photos], np.float32),
                times=tuple(photo["time"] for photo in photos),
                landmark_errors=np.array([photo["landmark_error"] for photo in photos], np.float64),
                network_landmark_errors=np.array(
                    [photo["landmark_error_before_refinement"] for photo in photos], np.float64
                ),
                Ks=np.array([photo["K"] for photo in photos], np.float32),
                focal_sources=tuple(photo["focal_source"] for photo in photos),
                model=str(stored["model"]),
                codes=Codes(**{field.name: tensors[field.name] for field in fields(Codes)}),
                template=template,
                neutral=tensors["neutral"],
                reflectance=tensors["vertex_reflectance"],
                texture=None if texture is None else read_picture(folder / TEXTURE),
                texture_confidence=None if texture is None else texture.numpy(),
                template_folder=Path(given) if (given := stored["template"]["folder"]) else None,
                template_unit=stored["template"]["unit"],
            )
            if texture is not None and result.texture is not None and result.texture.shape[:2] != texture.shape:
                raise ValueError(f"{TEXTURE} is not {list(texture.shape)} texels")
        except DAMAGE as error:
            raise ValueError(f"{folder} is damaged ({error}); reconstruct it anew") from error
        return result


def _stored_tensors(template: FaceTemplate, photos: int, textured: bool) -> dict[str, tuple]:
    """Lists types and shapes of what codes.safetensors holds."""
    shapes: dict[str, tuple] = {
        "identity": (1, "K"),
        "reflectance": (1, "Kr"),
        "tone": (1, 3),
        "detail": (1, "U", 3),
        "rotation": (1, photos, 3, 3),
        "translation": (1, photos, 3),
        "sh": (1, photos, 9, 3),
        "expression": (1, photos, len(template.expressions)),
    }
    shapes |= dict.fromkeys(("neutral", "vertex_reflectance"), tuple(template.vertices.shape))
    shapes |= {"texture_confidence": ("S", "S")} if textured else {}
    return {name: (torch.float32, *shape) for name, shape in shapes.items()}
