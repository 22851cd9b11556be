"""Serves pictures of a scene to browsers: a coarse one at once when something moves, a fine one when all is still."""

import contextlib
import io
import math
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fmlfast.color import linear_to_srgb, srgb_to_linear
from fmlfast.common.extras import require
from fmlfast.visualization.viewer.drawing import Camera, LitMesh, draw
from fmlfast.visualization.viewer.through import Through

MILLIMETRES = 1000.0  # in viser's metre
FIELD_OF_VIEW, DISTANCE = math.radians(30), 0.7  # of the first look at a head, metres
PAPER, NIGHT = ((252, 252, 250), (222, 224, 228)), ((52, 54, 60), (22, 23, 26))  # sRGB at the top and the bottom
_STILL = 0.3  # seconds without a change after which a fine picture is drawn
_DRAFT = 0.08  # seconds that a coarse picture may take; its size follows
_SMALLEST, _LARGEST = 400, 1600  # px, longer side of coarse and fine pictures
_SAMPLES = 2  # per pixel and axis of fine pictures
_FAR = 100_000.0  # mm


@dataclass(frozen=True)
class Scene:
    """What there is to see: lit meshes, and the camera whose picture is looked through, if any."""

    meshes: Sequence[LitMesh]
    through: Through | None = None


@dataclass
class _Sent:
    """What a browser was sent last."""

    camera: float = -1.0  # the time stamp of its camera
    version: int = -1  # of the scene
    fine: bool = False
    scale: float = 0.5  # of coarse pictures


class Stage:
    """A viser server with a thread that draws the scene for every browser."""

    def __init__(self, title: str, host: str, port: int) -> None:
        viser = require("viser", "viewer")
        warnings.filterwarnings("ignore", "Queued a .* on a closed connection")  # browsers leave when they like
        with contextlib.redirect_stdout(io.StringIO()):  # its own banner; see `address`
            self.server: Any = viser.ViserServer(host=host, port=port, label=title, verbose=False)
        self.server.scene.set_up_direction("+y")
        camera = self.server.initial_camera
        camera.position, camera.look_at, camera.fov = (0.0, 0.0, DISTANCE), (0.0, 0.0, 0.0), FIELD_OF_VIEW
        self.night = False
        self._build: Callable[[bool], Scene] | None = None
        self._scenes: dict[bool, Scene] = {}
        self._sent: dict[int, _Sent] = {}
        self._version, self._changed = 0, 0.0
        self._wake, self.stopped = threading.Condition(), False
        self._thread = threading.Thread(target=self._run, daemon=True, name="viewer")
        self._theme()
        self.server.gui.main_panel.dock_right()
        self.server.on_client_connect(self._connect)
        self.server.on_client_disconnect(lambda client: self._sent.pop(client.client_id, None))

    @property
    def address(self) -> str:
        """Returns the address to open in a browser."""
        return f"http://{self.server.get_host()}:{self.server.get_port()}"

    def start(self, build: Callable[[bool], Scene]) -> None:
        """Starts to draw what `build` returns: the fine scene for True, one that is quick to draw for False."""
        self._build = build
        self.changed()
        self._thread.start()

    def changed(self, *_: object) -> None:
        """Has the scene built and drawn anew; any thread may call it, and as often as it likes."""
        with self._wake:
            self._version += 1
            self._changed = time.monotonic()
            self._wake.notify()

    def background(self, night: bool) -> None:
        """Chooses the dark or the light background."""
        self.night = night
        self._theme()
        self.changed()

    def stop(self) -> None:
        """Ends the drawing and closes the server."""
        with self._wake:
            self.stopped = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()
        self.server.stop()

    def wait(self) -> None:
        """Waits until the program is interrupted, then stops."""
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            self.stop()

    def _theme(self) -> None:
        self.server.gui.configure_theme(
            dark_mode=self.night, control_width="large", show_logo=False, show_share_button=False
        )

    def _connect(self, client: Any) -> None:
        client.camera.on_update(self._moved)
        self._moved()

    def _moved(self, *_: object) -> None:
        with self._wake:
            self._wake.notify()

    def _run(self) -> None:
        built = -1
        while not self.stopped:
            version = self._version
            try:
                if version != built:
                    self._scenes, built = {}, version
                busy = any([self._serve(client, version) for client in self.server.get_clients().values()])
            except Exception:  # a scene that cannot be drawn must not end the viewer: the next change may mend it
                traceback.print_exc()
                busy = False
            with self._wake:
                if not busy and version == self._version:
                    self._wake.wait(_STILL)

    def _scene(self, fine: bool) -> Scene:
        if fine not in self._scenes:
            assert self._build is not None
            self._scenes[fine] = self._build(fine)
        return self._scenes[fine]

    def _serve(self, client: Any, version: int) -> bool:
        """Sends a browser the picture that it lacks; tells whether there was one."""
        sent = self._sent.setdefault(client.client_id, _Sent())
        stamp = client.camera.update_timestamp
        moved = stamp != sent.camera or version != sent.version
        since = min(time.time() - stamp, time.monotonic() - self._changed)
        if not moved and (sent.fine or since < _STILL):
            return False
        began = time.perf_counter()
        scale = sent.scale if moved else 1.0
        scene, camera = self._scene(not moved), viser_camera(client.camera, _LARGEST)
        if moved:
            longer = max(camera.width, camera.height)
            factor = min(1.0, max(scale, _SMALLEST / longer))
            camera = camera.resized(max(1, round(camera.width * factor)), max(1, round(camera.height * factor)))
        image, depth = self.picture(scene, camera, 1 if moved else _SAMPLES)
        client.scene.set_background_image(
            image, format="jpeg", jpeg_quality=80 if moved else 95, depth=depth if scene.through is None else None
        )
        took = time.perf_counter() - began
        if moved:
            sent.scale = min(1.0, max(0.1, scale * min(1.25, max(0.5, math.sqrt(_DRAFT / took)))))
        sent.camera, sent.version, sent.fine = stamp, version, not moved
        return True

    def picture(self, scene: Scene, camera: Camera, samples: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws a scene as one browser shows it: uint8 sRGB [H, W, 3], and depth [H, W] in metres."""
        behind = srgb_to_linear(_gradient(NIGHT if self.night else PAPER, camera.width, camera.height))
        if scene.through is not None:
            linear = scene.through.draw(scene.meshes, behind, samples)
            depth = linear.new_full(linear.shape[:2], math.inf)
        else:
            device = scene.meshes[0].vertices.device if scene.meshes else torch.device("cpu")
            linear, depth = draw(scene.meshes, camera.to(device), behind.to(device), samples)
        return to_bytes(linear), (depth.clamp(max=_FAR) / MILLIMETRES).cpu().numpy()


def viser_camera(camera: Any, largest: int) -> Camera:
    """Converts a browser's camera, metres, to one of at most `largest` px along the longer side, mm."""
    width, height = int(camera.image_width), int(camera.image_height)
    scale = min(1.0, largest / max(width, height, 1))
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    focal = height / 2 / math.tan(camera.fov / 2)
    K = torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
    world = rotation_matrix(camera.wxyz)  # camera to world
    position = torch.tensor(np.asarray(camera.position, np.float32)) * MILLIMETRES
    return Camera(K, world.T.contiguous(), -(world.T @ position), width, height)


def rotation_matrix(wxyz: Sequence[float] | np.ndarray) -> Tensor:  # [3, 3]
    """Converts a unit quaternion to a rotation matrix."""
    w, x, y, z = (float(value) for value in wxyz)
    return torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion(rotation: Tensor) -> np.ndarray:  # [3, 3] -> [4] w, x, y, z
    """Converts a rotation matrix to a unit quaternion."""
    m = rotation.double().numpy()
    outer = np.array(
        [
            [m[0, 0] + m[1, 1] + m[2, 2], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]],
            [0.0, m[0, 0] - m[1, 1] - m[2, 2], m[1, 0] + m[0, 1], m[0, 2] + m[2, 0]],
            [0.0, 0.0, m[1, 1] - m[0, 0] - m[2, 2], m[2, 1] + m[1, 2]],
            [0.0, 0.0, 0.0, m[2, 2] - m[0, 0] - m[1, 1]],
        ]
    )
    return np.linalg.eigh(outer, UPLO="U")[1][:, -1]


def to_bytes(linear: Tensor) -> np.ndarray:
    """Converts linear colours to uint8 sRGB."""
    return (linear_to_srgb(linear) * 255).round().to(torch.uint8).cpu().numpy()


def _gradient(ends: tuple[tuple[int, ...], tuple[int, ...]], width: int, height: int) -> Tensor:
    """Paints a background, sRGB 0..1 [H, W, 3]."""
    top, bottom = torch.tensor(ends) / 255.0
    share = torch.linspace(0, 1, height)[:, None, None]
    return torch.lerp(top, bottom, share).expand(height, width, 3)
