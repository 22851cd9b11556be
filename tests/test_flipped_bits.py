"""A flipped bit in what is stored is found where it is read; files without a checksum are read as before."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fmlfast.common.stored_arrays import read_tensors
from fmlfast.common.tensor_file import write_tensors
from fmlfast.common.text_files import checked_json, read_json
from fmlfast.model.stored_model import read_model
from fmlfast.reconstruction.result import Reconstruction
from fmlfast.reconstruction.track.tracked import TrackedPerson
from fmlfast.training.checkpoint import load_state, save_state
from tests.helpers.stored_examples import make_person, make_result, optimised, weights


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def test_every_bit_of_every_tensor_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors = {"half": torch.ones(3).half(), "one": torch.tensor(7), "none": torch.zeros(0, 2), "on": torch.ones(2) > 0}
    write_tensors(path, tensors | {"brain": torch.ones(2, 2).bfloat16().mT}, {"made": "here"})
    whole = path.read_bytes()
    begin = 8 + int.from_bytes(whole[:8], "little")
    assert {**read_tensors(path)}.keys() == {*tensors, "brain"}
    for bit in range(8 * begin, 8 * len(whole)):
        flip(path, bit)
        with pytest.raises(ValueError, match=r"a\.safetensors.*(checksum|NaN)"):
            read_tensors(path)
        path.write_bytes(whole)
    save_file(tensors, path)  # by another writer
    assert torch.equal(read_tensors(path)["half"], tensors["half"])


def test_names_and_shapes_count(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"alpha": torch.ones(2, 3)})
    whole = path.read_bytes()
    for old, new in ((b"alpha", b"alphb"), (b"[2,3]", b"[3,2]"), (b"F32", b"I32")):
        assert old in whole
        path.write_bytes(whole.replace(old, new))
        with pytest.raises(ValueError, match="checksum"):
            read_tensors(path)


def test_json_tells_the_same_however_it_is_laid_out(tmp_path: Path) -> None:
    path, content = tmp_path / "a.json", {"K": [[1.5, 2], (0.1, 1e-7)], "name": "Jörg", 5: None}
    path.write_text(checked_json(content))
    told = {"K": [[1.5, 2], [0.1, 1e-7]], "name": "Jörg", "5": None}
    assert read_json(path) == told
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({name: stored[name] for name in sorted(stored)}))
    assert read_json(path) == told
    path.write_text(path.read_text().replace("1.5", "1.7"))
    with pytest.raises(ValueError, match=r"a\.json: damaged \(checksum\); if you changed it, remove its line"):
        read_json(path)
    path.write_text(json.dumps(told))  # by another writer
    assert read_json(path) == told


def model(folder: Path) -> Path:
    path = weights(folder)
    write_tensors(path, load_file(path))
    return path


def state(folder: Path) -> Path:
    save_state(folder / "state.safetensors", *optimised(), step=5)
    return folder / "state.safetensors"


def codes(folder: Path) -> Path:
    make_result().save(folder / "out", meshes=False, pictures=False)
    return folder / "out" / "codes.safetensors"


STORED: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object]]] = {
    "model": (model, lambda path: read_model(path.parent)),
    "checkpoint": (state, lambda path: load_state(path, *optimised())),
    "result": (codes, lambda path: Reconstruction.load(path.parent)),
}


@pytest.mark.parametrize("name", STORED)
def test_a_flipped_bit_of_stored_tensors_is_found(name: str, tmp_path: Path) -> None:
    make, read = STORED[name]
    path = make(tmp_path)
    read(path)
    flip(path, 8 * path.stat().st_size - 32)  # the lowest of a number's
    with pytest.raises(ValueError, match="checksum"):
        read(path)


@pytest.mark.parametrize("kind", [Reconstruction, TrackedPerson])
def test_a_flipped_bit_of_parameters_is_found(kind: type[Reconstruction | TrackedPerson], tmp_path: Path) -> None:
    if kind is Reconstruction:
        home = codes(tmp_path).parent
    else:
        home, person = tmp_path, make_person()
        person.write_files(home)
        person.face.save(home / "face", meshes=False, pictures=False)
    kind.load(home)
    path = home / "parameters.json"
    at = path.read_bytes().index(b'"K"')
    digit = next(i for i, byte in enumerate(path.read_bytes()[at:], at) if byte in b"2468")
    flip(path, 8 * digit)
    with pytest.raises(ValueError, match="checksum"):
        kind.load(home)
