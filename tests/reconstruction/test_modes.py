"""What the caller has set of torch changes nothing, calls repeat to the bit, and copies are no evidence."""

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import fmlfast
from fmlfast.data.frames import Frames
from fmlfast.data.landmark_network import LandmarkNetwork
from fmlfast.model.codes import Codes
from fmlfast.model.fml import FML
from fmlfast.reconstruction.pipeline import reconstruct
from fmlfast.reconstruction.refinement import refine
from fmlfast.reconstruction.result import Reconstruction


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


MODES: dict[str, Callable[[], AbstractContextManager]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "double": lambda: default_dtype(torch.float64),
    "half": lambda: default_dtype(torch.float16),
    "device": lambda: torch.device("meta"),
    "deterministic": deterministic,
}


def tensors(result: Reconstruction) -> dict[str, torch.Tensor]:
    found = {field.name: getattr(result.codes, field.name) for field in fields(Codes)}
    return found | {"neutral": result.neutral, "reflectance": result.reflectance}


def differing(a: Reconstruction, b: Reconstruction) -> list[str]:
    assert a.texture is not None and b.texture is not None
    names = [name for name, value in tensors(a).items() if not torch.equal(value, tensors(b)[name])]
    pictures = {"texture": (a.texture, b.texture), "overlay": (a.overlay(0), b.overlay(0))}
    return names + [name for name, (one, other) in pictures.items() if not np.array_equal(one, other)]


def test_modes_of_torch_change_no_bit(photos: dict[str, Path], run: Path, tmp_path: Path) -> None:
    expected = reconstruct([photos["left"]], run, refine=1, texture=64, topology="own")
    for name, mode in MODES.items():
        with mode():
            found = reconstruct([photos["left"]], run, refine=1, texture=64, topology="own")
            assert not any(tensor.is_inference() for tensor in tensors(found).values()), name
            assert differing(found, expected) == [], name
            found.save(tmp_path / name, meshes=False, pictures=name in ("half", "device"))
        assert differing(Reconstruction.load(tmp_path / name), expected) == [], name


def test_a_model_loaded_in_any_mode_can_be_trained(run: Path, frames: Frames) -> None:
    for name, mode in MODES.items():
        with mode():
            model, network = FML.load(run), LandmarkNetwork.load()
            pixels = torch.zeros(1, 3, 64, 64, device="cpu", dtype=torch.float32)
            assert network.correct(pixels, network.canonical[None])[0].dtype == torch.float32, name
        usable = (not p.is_inference() and p.dtype == torch.float32 and p.requires_grad for p in model.parameters())
        assert all(usable), name
        model.neutral(model.encode(frames)).sum().backward()
        assert model.face.identity_basis.grad is not None, name


def test_refinement_in_inference_mode_is_the_same(model: FML, frames: Frames) -> None:
    codes = model.encode(frames).map(torch.detach)
    expected = refine(model, frames, codes, 2)
    with torch.inference_mode():
        inside = refine(model, frames.map(torch.clone), codes.map(torch.clone), 2)
    assert all(torch.equal(a, b) for a, b in zip(expected.tensors(), inside.tensors(), strict=True))


def test_random_states_stay_as_they_are(photos: dict[str, Path], run: Path) -> None:
    states = torch.get_rng_state(), random.getstate()
    fmlfast.reconstruct([photos["left"]], run, refine=1, texture=64)
    FML.load(run)
    LandmarkNetwork.load()
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]


def test_copies_of_a_photo_count_once(photos: dict[str, Path], run: Path, tmp_path: Path) -> None:
    saved = tmp_path / "again.jpg"
    Image.open(photos["left"]).save(saved, quality=85)
    pair = [photos["left"], photos["right"]]
    expected = reconstruct(pair, run, refine=1, texture=64, topology="own")
    found = reconstruct([*pair, photos["left"], saved], run, refine=1, texture=64, topology="own")
    assert found.names == ("left", "right", "left-2", "again")
    for name, value in tensors(expected).items():
        other = tensors(found)[name]
        if name in ("rotation", "translation", "sh", "expression"):
            value = value[:, [0, 1, 0, 0]]
        assert torch.equal(other, value), name
    np.testing.assert_array_equal(found.Ks, expected.Ks[[0, 1, 0, 0]])
    np.testing.assert_array_equal(found.landmark_errors, expected.landmark_errors[[0, 1, 0, 0]])
    assert np.array_equal(found.photos[3], fmlfast.read_image(saved)) and len(found.parameters()["photos"]) == 4  # type: ignore[arg-type]
    assert found.parameters()["skin"] == expected.parameters()["skin"]
