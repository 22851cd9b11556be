"""Shows a reconstructed person: relit, turned and animated, with the photos beside and behind the face."""

import math
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fmlfast.reconstruction.result import Reconstruction
from fmlfast.rotation import FRONTAL
from fmlfast.visualization.viewer.controls import Expressions, Light, Look, Turn
from fmlfast.visualization.viewer.drawing import lit_mesh, of_style
from fmlfast.visualization.viewer.figure import Figure
from fmlfast.visualization.viewer.stage import DISTANCE, MILLIMETRES, Scene, Stage, quaternion
from fmlfast.visualization.viewer.through import Through

_PREVIEW = 640  # px, longer side of photos in the panel and in the scene
_FRUSTUM = 0.1  # of a camera's distance from the head
_AROUND, _ASPECT = 2.0, 1.4  # height of a close-up in faces, and its width in heights
_EMPTY = (246, 246, 246)  # sRGB, beyond the photo
_OVERVIEW = (0.8, 0.35, 0.6)  # towards a place from which the head and all cameras are seen


class ResultView:
    """One person's reconstruction on a stage."""

    def __init__(self, stage: Stage, result: Reconstruction) -> None:
        self.stage, self.result = stage, result
        self.figure = Figure.of(result.head())
        gui, names = stage.server.gui, result.names
        self.look = Look(gui, stage)
        with gui.add_folder("Photos"):
            self.photo = gui.add_dropdown("Photo", list(names), initial_value=names[0], visible=len(names) > 1)
            self.picture = gui.add_image(self._close_up(0), format="jpeg", jpeg_quality=90)
            gui.add_button("As in this photo").on_click(lambda _: self.as_in_photo())
            self.through = gui.add_checkbox("Over the photo", False, hint="See the head through the photo's camera")
            self.opacity = gui.add_slider("Opacity", min=0.0, max=1.0, step=0.01, initial_value=1.0, disabled=True)
            self.beside = gui.add_checkbox("Photo beside it", False, disabled=True)
            self.cameras = gui.add_checkbox("Show cameras", False)
        self.expressions = Expressions(gui, result.template.expression_names, stage.changed)
        lights = {name: result.codes.sh[0, i] for i, name in enumerate(names)}
        self.light = Light(gui, stage.changed, lights)
        self.turn = Turn(gui, stage.changed)
        self.frame = stage.server.scene.add_frame("/head", show_axes=False)
        for index in range(len(names)):
            self._add_camera(index)
        self.photo.on_update(lambda _: self._chosen())
        self.through.on_update(lambda _: self._looked_through())
        self.cameras.on_update(self._overview)
        for control in (self.opacity, self.beside, self.cameras):
            control.on_update(stage.changed)

    @property
    def index(self) -> int:
        """Returns the number of the chosen photo."""
        return self.result.names.index(self.photo.value)

    def as_in_photo(self) -> None:
        """Gives the head the expression, the turn and the light of the chosen photo."""
        codes, index = self.result.codes, self.index
        self.expressions.set(codes.expression[0, index])
        self.turn.set(world_rotation(codes.rotation[0, index]))
        self.light.source.value = self.photo.value

    def scene(self, fine: bool) -> Scene:
        """Builds what the sliders say."""
        figure, style, over = of_style(self.figure, self.look.style, fine), self.look.style, self.through.value
        rotation = self._rotation()
        vertices = figure.placed(self.expressions.weights, rotation, torch.zeros(3))
        opacity = figure.overlaid * self.opacity.value if over else None
        self.frame.wxyz, self.frame.visible = quaternion(rotation), self.cameras.value and not over
        result, index = self.result, self.index
        through = None
        if over:
            origin = result.codes.translation[0, index]
            through = Through(result.photos[index], torch.from_numpy(result.Ks[index]), origin, self.beside.value)
        return Scene([lit_mesh(figure, vertices, self.light.light, style, opacity)], through)

    def _rotation(self) -> Tensor:
        """Returns the head's rotation; that of the photo exactly where the sliders stand at its whole degrees."""
        rotation = self.turn.rotation
        exact = world_rotation(self.result.codes.rotation[0, self.index])
        near = float((rotation.T @ exact).diagonal().sum()) > 1 + 2 * math.cos(math.radians(1.0))
        return exact if near else rotation

    def _chosen(self) -> None:
        self.picture.image = self._close_up(self.index)
        if self.through.value:
            self.as_in_photo()
        self.stage.changed()

    def _looked_through(self) -> None:
        self.opacity.disabled = self.beside.disabled = not self.through.value
        if self.through.value:
            self.as_in_photo()
        self.stage.changed()

    def _overview(self, event: Any) -> None:
        """Moves who asked for the cameras to where they are seen, or back."""
        if event.client is None:
            return
        far = float(self.result.codes.translation[0].norm(dim=1).max()) / MILLIMETRES
        shown, camera = self.cameras.value, event.client.camera
        camera.position = tuple(2.0 * far * value for value in _OVERVIEW) if shown else (0.0, 0.0, DISTANCE)
        camera.look_at = (0.0, 0.0, far / 2 if shown else 0.0)

    def _close_up(self, index: int) -> np.ndarray:
        return close_up(self.result.photos[index], self.result.landmarks[index])

    def _add_camera(self, index: int) -> None:
        """Adds a photo's camera to the scene, fixed to the head; a click on it looks through it."""
        codes, photo = self.result.codes, self.result.photos[index]
        rotation, translation = codes.rotation[0, index], codes.translation[0, index]
        position = -(rotation.T @ translation) / MILLIMETRES
        height, width = photo.shape[:2]
        frustum = self.stage.server.scene.add_camera_frustum(
            f"/head/camera{index}",
            fov=2 * math.atan(height / 2 / float(self.result.Ks[index][1, 1])),
            aspect=width / height,
            scale=_FRUSTUM * float(position.norm()),
            thickness=2.0,
            thickness_units="screen",
            color=(90, 96, 110),
            image=shrunk(photo),
            wxyz=quaternion(rotation.T),
            position=position.numpy(),
        )

        @frustum.on_click
        def _(_: Any) -> None:
            self.photo.value = self.result.names[index]
            self.through.value = True


def world_rotation(
    rotation: Tensor,  # [3, 3] model frame to camera frame
) -> Tensor:  # [3, 3]
    """Computes the rotation from the model frame to the world, which the camera sees frontally."""
    return rotation.new_tensor(FRONTAL).T @ rotation


def close_up(photo: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Cuts the surroundings of a face with landmarks [68, 2] px out of a photo; uint8 [H, W, 3]."""
    low, high = landmarks.min(0), landmarks.max(0)
    x, y = (low + high) / 2 - (0, 0.1 * (high - low)[1])  # landmarks end at the brows
    half = _AROUND * float((high - low).max()) / 2
    x, y = _inside(x, half * _ASPECT, photo.shape[1]), _inside(y, half, photo.shape[0])
    box = (x - half * _ASPECT, y - half, x + half * _ASPECT, y + half)
    size = (round(_PREVIEW * min(1.0, half / 100)), round(_PREVIEW / _ASPECT * min(1.0, half / 100)))
    cut = Image.fromarray(photo).transform(
        (round(2 * half * _ASPECT), round(2 * half)),
        Image.Transform.EXTENT,
        box,
        Image.Resampling.BILINEAR,
        fillcolor=_EMPTY,
    )
    return np.array(cut.resize(size, Image.Resampling.LANCZOS))


def _inside(middle: float, half: float, size: int) -> float:
    """Moves the middle of a window into a picture, where the window fits into it."""
    return min(max(middle, half), size - half) if 2 * half <= size else size / 2


def shrunk(photo: np.ndarray) -> np.ndarray:
    """Shrinks a photo for the scene."""
    picture = Image.fromarray(photo)
    picture.thumbnail((_PREVIEW, _PREVIEW), Image.Resampling.LANCZOS)
    return np.array(picture)
