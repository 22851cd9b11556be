"""Opens folders in the viewer: a model's run, a tracked video, or one or two results."""

import socket
from collections.abc import Sequence
from pathlib import Path

import torch

from fmlfast.common.extras import require
from fmlfast.model.fml import FML
from fmlfast.model.pretrained import default_checkpoint
from fmlfast.reconstruction.result import PARAMETERS, Reconstruction
from fmlfast.reconstruction.track.tracked import load_people
from fmlfast.visualization.viewer.compare_view import CompareView
from fmlfast.visualization.viewer.model_view import ModelView
from fmlfast.visualization.viewer.result_view import ResultView
from fmlfast.visualization.viewer.stage import Stage
from fmlfast.visualization.viewer.track_view import TrackView


def open_view(folders: Sequence[Path], host: str = "127.0.0.1", port: int = 8080) -> Stage:
    """Serves what the folders hold to browsers, and returns the running stage.

    Args:
        folders: none for the shipped model, a run folder, a folder that `fmlfast.track` wrote, or one or two results of
            `Reconstruction.save`.
        host: address to serve at.
        port: the next free one is taken where it is in use.

    Raises:
        ValueError: a folder is none of these, there are too many, or `host` is no address of this computer.
        ImportError: viser is not installed.
    """
    require("viser", "viewer")  # before the work, not after it
    check_host(host)
    folders = list(folders) or [default_checkpoint()]
    if len(folders) == 1 and is_run(folders[0]):
        model = FML.load(folders[0], "cuda" if torch.cuda.is_available() else "cpu")
        stage = Stage(folders[0].resolve().name, host, port)
        stage.start(ModelView(stage, model).scene)
        return stage
    if len(folders) == 1 and is_tracked(folders[0]):
        people = load_people(folders[0])
        stage = Stage(folders[0].resolve().name, host, port)
        stage.start(TrackView(stage, people).scene)
        return stage
    if len(folders) > 2:
        raise ValueError(f"{len(folders)} folders given; name a run, a tracked video, or one or two results")
    for folder in folders:
        if not (folder / PARAMETERS).is_file():
            what = "is a run, and only results are compared" if is_run(folder) else "is no run, result or tracked video"
            raise ValueError(f"{folder} {what}; make a result with fmlfast reconstruct PHOTO... --out {folder}")
    results = [Reconstruction.load(folder) for folder in folders]
    names = [folder.resolve().name for folder in folders]
    stage = Stage(" and ".join(names), host, port)
    if len(results) == 1:
        stage.start(ResultView(stage, results[0]).scene)
    else:
        shown = CompareView(stage, (names[0], names[1]), (results[0].head(), results[1].head()))
        stage.start(shown.scene)
    return stage


def is_run(folder: Path) -> bool:
    """Tells whether a folder holds a trained model."""
    return (folder / "model.safetensors").is_file()


def is_tracked(folder: Path) -> bool:
    """Tells whether a folder holds the people of a tracked video."""
    return (folder / "person-0").is_dir()


def check_host(host: str) -> None:
    """Raises ValueError where `host` is no address of this computer."""
    try:
        socket.create_server((host, 0)).close()
    except OSError as error:
        reason = str(error.strerror or error).split(" (")[0]
        raise ValueError(f"--host {host}: {reason}; 127.0.0.1 is this computer alone") from error
