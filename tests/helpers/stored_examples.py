"""Small valid files of every kind that users hand over, each written into an empty folder."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fmlfast.data.pixel_cache import cache_shards
from fmlfast.data.shards import (
    Clip,
    ShardWriter,
    TruthWriter,
    list_clips,
    write_meta,
)
from fmlfast.data.video.prepared_folder import PrepareConfig, folder_meta
from fmlfast.mesh_io import write_mesh
from fmlfast.model.codes import Codes
from fmlfast.model.config import ModelConfig
from fmlfast.model.encoder import Encoder
from fmlfast.reconstruction.result import Reconstruction
from fmlfast.reconstruction.track.estimate import Track
from fmlfast.reconstruction.track.tracked import FACE, TrackedPerson
from fmlfast.template.face_template import FaceTemplate
from fmlfast.training.checkpoint import save_state
from tests.helpers.videos import write_video


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def text_file(name: str, text: str | bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return make


def photo(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path, exif = folder / name, Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(pixels(64, 80, 3)).save(path, exif=exif)
        return path

    return make


# ------------------------------------------------------------------------------------------------------------- clips


def make_clip(key: str = "a-1", frames: int = 2, size: int = 32) -> Clip:
    """A clip of noise whose landmarks are the template's."""
    template = FaceTemplate.default(0)
    marks = template.landmarks(template.vertices).numpy()[:, :2] * (0.14, -0.14) + size / 2
    K = np.array([[size * 1.6, 0, size / 2], [0, size * 1.6, size / 2], [0, 0, 1]], np.float32)
    return Clip(
        key=key,
        subject="a",
        source="s",
        images=pixels(frames, size, size, 3),
        landmarks=np.tile(marks.astype(np.float32), (frames, 1, 1)),
        confidence=np.ones((frames, 68), np.float32),
        Ks=np.tile(K, (frames, 1, 1)),
        crop_to_source=np.tile(np.eye(2, 3, dtype=np.float32), (frames, 1, 1)),
        times=np.arange(frames, dtype=np.float32),
        expression_labels=np.full((frames, 52), 0.5, np.float32),
    )


def shard(folder: Path) -> Path:
    with ShardWriter(folder, "train") as writer:
        for key in ("a-1", "b-2"):
            writer.add(make_clip(key))
    return folder / "train-000000.tar"


def truth(folder: Path) -> Path:
    with TruthWriter(folder, "train") as writer:
        writer.add("a-1", {"vertices": np.ones((7, 3), np.float32), "expression": np.zeros((2, 52), np.float32)})
    return folder / "train-truth-000000.tar"


def meta(folder: Path) -> Path:
    write_meta(folder, {"generator": "prepare", "settings": {"size": 64}, "version": "1"})
    return folder / "meta.json"


def cache(folder: Path) -> Path:
    path = shard(folder)
    cache_shards([(path, list_clips(folder, "train"))], 16)
    return folder / "decoded" / "16px" / "train-000000.safetensors"


def prepare_report(folder: Path) -> Path:
    config = PrepareConfig((), folder)
    write_meta(folder, folder_meta(config))
    clip = {"subject": "a", "start": 0.0, "end": 1.5, "looked_at": 9, "kept": 2, "rejected": {"small": 1}, "key": "a-1"}
    source = {"name": "a.mp4", "seconds": 1.5, "looked_at": 9, "trouble": "", "clips": [clip]}
    return text_file("report.json", json.dumps({"clips": 1, "sources": {"0a1b": source}}))(folder)


# -------------------------------------------------------------------------------------------------------------- runs


CONFIG = ModelConfig(
    level=0, image_size=32, input_size=16, channels=(4,), width=8, identity_dim=3, reflectance_dim=2, inputs="paper",
    shape_init=False,
)  # fmt: skip


def weights(folder: Path) -> Path:
    """Files of a model as `read_model` checks them: what is not, is left out."""
    from safetensors.torch import save_file

    template = FaceTemplate.default(0)
    encoder = Encoder(CONFIG.input_size, CONFIG.channels, CONFIG.width, 0, 5, 33, 0)
    tensors = {f"encoder.{name}": tensor.contiguous() for name, tensor in encoder.state_dict().items()}
    tensors |= {"face.identity_basis": torch.ones(3, 20), "face.reflectance_basis": torch.ones(2, 20)}
    save_file(tensors, folder / "model.safetensors")
    told = {"name": template.name, "fingerprint": template.fingerprint}
    (folder / "config.json").write_text(json.dumps({"model": vars(CONFIG), "template": told, "steps": 3}))
    return folder / "model.safetensors"


def run_config(folder: Path) -> Path:
    return weights(folder).with_name("config.json")


def optimised() -> tuple[torch.nn.Module, dict[str, torch.optim.Optimizer]]:
    model = torch.nn.Linear(4, 3)
    return model, {"adam": torch.optim.Adam(model.parameters())}


def state(folder: Path) -> Path:
    model, optimizers = optimised()
    model(torch.ones(2, 4)).sum().backward()
    optimizers["adam"].step()
    save_state(folder / "state.safetensors", model, optimizers, 5, {"steps": 9})
    return folder / "state.safetensors"


def history(folder: Path) -> Path:
    lines = ({"step": step, "loss": 1 / (1 + step), "frames_per_second": 9.5} for step in range(5))
    return text_file("metrics.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines))(folder)


def evaluation(folder: Path) -> Path:
    row = {"vertex_mm": 1.0, "landmark_nme": 2.5}
    known = {"active": 0.5, "mean_face": {"error": 0.1, "active_error": None, "correlation": 0.5}}
    named = {"commonest": ["jawOpen"], "by_name": {"jawOpen": known}}
    named |= {"mean_error": {"mean_face": 0.1}, "mean_active_error": {"mean_face": None}}
    table = {"data": "d", "split": "test", "people": 3, "mean_face": row, "frames_4": row, "expressions": named}
    table |= {"ratios": {"frames_4": row}, "spread": {"frames_4": row}, "landmarks": "own"}
    table |= {"floor": {"graph": 1.0, "complement": 1.5, "complement_rank": 9}}
    (folder / "config.json").write_text("{}")
    return text_file("evaluation.json", json.dumps(table))(folder)


# ------------------------------------------------------------------------------------------- reconstructions and tracks


def make_result() -> Reconstruction:
    """A reconstruction of one photo of noise."""
    template = FaceTemplate.default(0)
    expressions = len(template.expressions)
    codes = Codes(
        torch.ones(1, 3), torch.ones(1, 2), torch.zeros(1, 3), torch.zeros(1, 0, 3), torch.eye(3)[None, None],
        torch.tensor([[[0.0, 0.0, 600.0]]]), torch.ones(1, 1, 9, 3), torch.zeros(1, 1, expressions),
    )  # fmt: skip
    return Reconstruction(
        names=("left",),
        photos=(pixels(64, 80, 3),),
        landmarks=np.ones((1, 68, 2), np.float32),
        times=(None,),
        landmark_errors=np.ones(1),
        network_landmark_errors=np.ones(1),
        Ks=np.array([[[90, 0, 40], [0, 90, 32], [0, 0, 1]]], np.float32),
        focal_sources=("assumed",),
        model="0" * 64,
        codes=codes,
        template=template,
        neutral=template.vertices,
        reflectance=template.colors,
        texture=pixels(64, 64, 3),
        texture_confidence=np.ones((64, 64), np.float32),
    )


def result(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        make_result().save(folder / "out", meshes=False, pictures=False)
        return folder / "out" / name

    return make


def make_person() -> TrackedPerson:
    """The person of `make_result` in three frames."""
    face, frames = make_result(), 3
    track = Track(
        torch.arange(frames), torch.arange(frames).double() / 25, torch.ones(frames, dtype=torch.bool),
        torch.eye(3).repeat(frames, 1, 1), torch.ones(frames, 3), torch.zeros(frames, len(face.template.expressions)),
        torch.ones(frames, 9, 3), torch.ones(frames, 68, 2),
    )  # fmt: skip
    return TrackedPerson(face, track, face.Ks[0], (80, 64), Path("film.mp4"))


def tracked(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        person, home = make_person(), folder / "person-0"
        home.mkdir()
        person.face.save(home / FACE, meshes=False, pictures=False)
        np.savez_compressed(home / "parameters.npz", **{n: v.numpy() for n, v in vars(person.track).items()})
        (home / "parameters.json").write_text(json.dumps(person.parameters()))
        return home / name

    return make


def segment(folder: Path) -> Path:
    sight = {"frame": 0, "time": 0.0, "uncertainty": 0.01, "sharpness": 0.5, "side": 90.0, "rotation": [1.0] * 9}
    stored = {"first": 0, "times": [0.0, 0.04], "cuts": [], "state": {"count": 1}, "tracks": {"0": [sight]}}
    return text_file("s00000.json", json.dumps(stored))(folder)


def film(name: str, codec: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        return write_video(folder / name, list(pixels(6, 64, 80, 3)), codec=codec)

    return make


CAMERA = {"fl_x": 90.0, "fl_y": 91.0, "cx": 40.0, "cy": 32.0, "w": 80, "h": 64}
RIG = {"cameras": [{**CAMERA, "R": np.eye(3).tolist(), "t": [0.0, 1.0, 2.0]}] * 2}


def camera(stored: dict) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        write_video(folder / "film.mkv", list(pixels(2, 64, 80, 3)))
        return text_file("camera.json", json.dumps(stored))(folder)

    return make


# ------------------------------------------------------------------------------------------------- meshes and points


def mesh(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        template = FaceTemplate.default(0)
        part = template.landmark_part()
        write_mesh(folder / name, part.vertices, part.triangles, part.colors)
        return folder / name

    return make


def stl(folder: Path) -> Path:
    part = FaceTemplate.default(0).landmark_part()
    corners = part.vertices[part.triangles.long()].flatten(1).numpy().astype("<f4")
    record = np.zeros(len(corners), [("numbers", "<f4", 12), ("none", "<u2")])
    record["numbers"][:, 3:] = corners
    return text_file("scan.stl", bytes(80) + len(corners).to_bytes(4, "little") + record.tobytes())(folder)


def population(folder: Path) -> Path:
    template = FaceTemplate.default(0)
    shape = template.vertices.numpy()
    print_ = np.array(template.fingerprint)
    np.savez_compressed(folder / "p.npz", fingerprint=print_, mean=shape, modes=np.stack([shape, shape]))
    return folder / "p.npz"


def rows(rows: Iterable[Iterable[float]]) -> str:
    return "".join(f"{' '.join(map(str, row))}\n" for row in rows)
