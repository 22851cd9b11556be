"""Every reader of files that users hand over, with a maker of a small valid file."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fmlfast.data.pixel_cache import open_cached
from fmlfast.data.shards import (
    list_clips,
    read_clip,
    read_meta,
    read_truth,
)
from fmlfast.data.synthetic.population import Population
from fmlfast.data.video.decode import Video
from fmlfast.data.video.prepared_folder import PrepareConfig, open_folder
from fmlfast.evaluation.report import read_history, write_report
from fmlfast.evaluation.scans.readers import read_landmarks, read_points
from fmlfast.mesh_io import read_obj
from fmlfast.model.stored_model import read_model
from fmlfast.reconstruction.inputs import read_focal, read_image
from fmlfast.reconstruction.result import Reconstruction
from fmlfast.reconstruction.track.camera_file import read_camera, read_rig
from fmlfast.reconstruction.track.observe import observed_segments
from fmlfast.reconstruction.track.source import VideoFacts
from fmlfast.reconstruction.track.tracked import TrackedPerson
from fmlfast.template.folder import _read_points
from fmlfast.training.checkpoint import load_state
from tests.helpers.stored_examples import (
    CAMERA,
    RIG,
    cache,
    camera,
    evaluation,
    film,
    history,
    mesh,
    meta,
    optimised,
    photo,
    population,
    prepare_report,
    result,
    rows,
    run_config,
    segment,
    shard,
    state,
    stl,
    text_file,
    tracked,
    truth,
    weights,
)


@dataclass(frozen=True)
class Reader:
    """A reader: `make` writes a valid file into an empty folder and returns its path; `read` takes that path.

    A damaged file ends in ValueError or OSError that names it, its folder, or the file that stands for it.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], object]


def _read_photo(path: Path) -> None:
    read_focal(path)
    read_image(path)


def _read_cache(path: Path) -> None:
    cached = open_cached(path.parents[2] / "train-000000.tar", 16)
    if cached is not None:
        _ = [cached[index] for index in range(cached.clips)]


def _read_prepared(path: Path) -> None:
    open_folder(path.parent, PrepareConfig((), path.parent))


def _read_film(path: Path) -> None:
    try:
        for frame in Video(path).frames():
            frame.image()
            frame.thumbnail()
    except ValueError as error:  # whoever reads a video names it
        raise ValueError(f"{path}: {error}") from error
    VideoFacts.of(path)


def _template_points(path: Path) -> None:
    obj = read_obj(mesh("neutral.obj")(path.parent))
    _read_points(path, obj, 68)


SEVEN = np.arange(21.0).reshape(7, 3)
BS = np.array([1, 4, 2], "<i4").tobytes() + np.arange(24, dtype="<f4").tobytes()
PP = "".join(f'<point x="{x}" y="{y}" z="{z}" active="1" name="{x}"/>' for x, y, z in SEVEN)
WRL = "#VRML V2.0 utf8\nShape { geometry IndexedFaceSet { coord Coordinate { point [ 0 0 0, 1 0 0, 0 1 0 ] } } }"


def _marks(path: Path) -> None:
    read_landmarks(path, np.arange(30.0).reshape(10, 3))


READERS: dict[str, Reader] = {
    "photo, PNG": Reader(photo("a.png"), _read_photo),
    "photo, JPEG": Reader(photo("a.jpg"), _read_photo),
    "photo, TIFF": Reader(photo("a.tif"), _read_photo),
    "photo, WebP": Reader(photo("a.webp"), _read_photo),
    "photo, GIF": Reader(photo("a.gif"), _read_photo),
    "photo, BMP": Reader(photo("a.bmp"), _read_photo),
    "video, Matroska": Reader(film("a.mkv", "ffv1"), _read_film),
    "video, MP4": Reader(film("a.mp4", "mpeg4"), _read_film),
    "video, AVI": Reader(film("a.avi", "mpeg4"), _read_film),
    "clips": Reader(shard, lambda path: [read_clip(ref) for ref in list_clips(path.parent, "train")]),
    "truth of clips": Reader(truth, lambda path: dict(read_truth(path.parent, "train"))),
    "meta.json of clips": Reader(meta, lambda path: read_meta(path.parent)),
    "cache of clips": Reader(cache, _read_cache),
    "report.json of prepare": Reader(
        prepare_report, lambda path: open_folder(path.parent, PrepareConfig((), path.parent))
    ),
    "config.json of a run": Reader(run_config, lambda path: read_model(path.parent)),
    "model.safetensors": Reader(weights, lambda path: read_model(path.parent)),
    "state.safetensors": Reader(state, lambda path: load_state(path, *optimised(), {"steps": 9})),
    "metrics.jsonl": Reader(history, read_history),
    "evaluation.json": Reader(evaluation, lambda path: write_report(path.parent)),
    "parameters.json": Reader(result("parameters.json"), lambda path: Reconstruction.load(path.parent)),
    "codes.safetensors": Reader(result("codes.safetensors"), lambda path: Reconstruction.load(path.parent)),
    "photo of a result": Reader(result("photo-left.png"), lambda path: Reconstruction.load(path.parent)),
    "texture of a result": Reader(result("texture.png"), lambda path: Reconstruction.load(path.parent)),
    "parameters.json of a track": Reader(tracked("parameters.json"), lambda path: TrackedPerson.load(path.parent)),
    "parameters.npz of a track": Reader(tracked("parameters.npz"), lambda path: TrackedPerson.load(path.parent)),
    "segment of a track": Reader(segment, lambda path: observed_segments(path.parent)),
    "camera": Reader(camera(CAMERA), lambda path: read_camera(path, path.with_name("film.mkv"))),
    "cameras": Reader(camera(RIG), lambda path: read_rig(path, [path.with_name("film.mkv")] * 2)),
    "OBJ of a template": Reader(mesh("neutral.obj"), read_obj),
    "landmarks.txt of a template": Reader(text_file("landmarks.txt", rows([[i] for i in range(68)])), _template_points),
    "population": Reader(population, Population),
    "scan, OBJ": Reader(mesh("scan.obj"), read_points),
    "scan, PLY": Reader(mesh("scan.ply"), read_points),
    "scan, GLB": Reader(mesh("scan.glb"), read_points),
    "scan, STL": Reader(stl, read_points),
    "scan, XYZ": Reader(text_file("scan.xyz", rows(SEVEN)), read_points),
    "scan, OFF": Reader(text_file("scan.off", "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"), read_points),
    "scan, VRML": Reader(text_file("scan.wrl", WRL), read_points),
    "scan, FaceWarehouse": Reader(text_file("shape.bs", BS), read_points),
    "landmarks, text": Reader(text_file("a.txt", rows(SEVEN)), _marks),
    "landmarks, MeshLab": Reader(text_file("a.pp", f"<PickedPoints>{PP}</PickedPoints>"), _marks),
    "landmarks, BU-3DFE": Reader(text_file("a.bnd", rows(np.random.default_rng(0).normal(size=(83, 4)))), _marks),
}
"""All readers, by what they read."""
