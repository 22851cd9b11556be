"""Fixtures that many tests share: a few synthetic clips and a small model on the coarsest mesh."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import fmlfast.common.passive_waiting  # noqa: F401  (before torch)

from fmlfast.common.child_processes import THREADS

os.environ.update(dict.fromkeys(THREADS, "1"))  # before NumPy

import pytest
import torch

from fmlfast.data.frames import Frames
from fmlfast.data.shards import ShardWriter, list_clips, list_splits, read_clip, read_truth
from fmlfast.data.synthetic.generate import SyntheticConfig, generate
from fmlfast.model.fml import FML
from tests.helpers.detections import with_perfect_detection
from tests.helpers.small_model import SMALL

torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    """Before any kernel is imported: with `-m gpu` they run on the GPU, otherwise in Triton's interpreter."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which shells have background jobs ignore
    if config.option.markexpr != "gpu":  # and what picks a GPU where there is one must not do so under the interpreter
        os.environ |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reason = "no GPU here" if not torch.cuda.is_available() else "run with -m gpu"
    if config.option.markexpr != "gpu" or not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu") is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Where kernels run: "cpu" in the interpreter, "cuda" with `-m gpu`."""
    return request.param


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Memory that nobody wrote holds NaN or the largest integer, so that leaving it as it is gets noticed."""
    torch.use_deterministic_algorithms(True, warn_only=True)  # which fills what torch.empty and its like return
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def small_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the interpreter split work among programs as a GPU does, which costs it time."""
    monkeypatch.setattr("fmlfast.kernels.common.backend.INTERPRETER_LANES", 1)


@pytest.fixture(scope="session")
def synthetic_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of synthetic clips: 6 training, 2 validation and 3 test people, 64 px."""
    folder = tmp_path_factory.mktemp("synthetic") / "clips"
    generate(
        SyntheticConfig(
            out=folder,
            people=6,
            val_people=2,
            test_people=3,
            size=64,
            level=0,
            supersample=1,
            detect=False,
            workers=1,
        )
    )
    return folder


@pytest.fixture(scope="session")
def detected_folder(synthetic_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same clips with surface points and scores, as of a face detector that errs little."""
    folder = tmp_path_factory.mktemp("detected") / "clips"
    folder.mkdir()
    shutil.copy(synthetic_folder / "meta.json", folder)
    for split in list_splits(synthetic_folder):
        truth = read_truth(synthetic_folder, split)
        shutil.copy(synthetic_folder / f"{split}-truth-000000.tar", folder)
        with ShardWriter(folder, split) as writer:
            for ref in list_clips(synthetic_folder, split):
                writer.add(with_perfect_detection(read_clip(ref), truth[ref.key], 0.3))
    return folder


@pytest.fixture(scope="session")
def frames(synthetic_folder: Path) -> Frames:
    """Two people in four frames each, with landmarks only."""
    return Frames.from_clips([read_clip(ref) for ref in list_clips(synthetic_folder, "train")[:2]], 64)


@pytest.fixture(scope="session")
def dense_frames(detected_folder: Path) -> Frames:
    """The same frames with surface points and scores."""
    return Frames.from_clips([read_clip(ref) for ref in list_clips(detected_folder, "train")[:2]], 64)


@pytest.fixture
def model() -> FML:
    """A small untrained model, the same each time."""
    torch.manual_seed(0)
    return FML(SMALL).eval()
