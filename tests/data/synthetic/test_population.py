"""People of another head model, registered to the template."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fmlfast.data.shards import list_clips, read_clip, read_meta, read_truth
from fmlfast.data.synthetic.generate import SyntheticConfig, generate, render_person
from fmlfast.data.synthetic.people import PeopleSampler
from fmlfast.data.synthetic.population import Population
from fmlfast.template.face_template import FaceTemplate

MODES = 4


@pytest.fixture
def stored(tmp_path: Path) -> dict[str, np.ndarray]:
    rng, template = np.random.default_rng(0), FaceTemplate.default(0)
    vertices = template.vertices.numpy()
    slopes = rng.normal(0, 0.02, (MODES, 3, 3))  # so that modes are smooth
    return {
        "fingerprint": np.array(template.fingerprint),
        "mean": (1.03 * vertices).astype(np.float32),
        "modes": np.einsum("kij,vj->kvi", slopes, vertices).astype(np.float32),
    }


def write(path: Path, arrays: dict[str, Any]) -> None:
    np.savez(path, **arrays)


@pytest.fixture
def path(tmp_path: Path, stored: dict[str, np.ndarray]) -> Path:
    write(tmp_path / "others.npz", stored)
    return tmp_path / "others.npz"


def config(out: Path, path: Path | None, **changes: object) -> SyntheticConfig:
    small = SyntheticConfig(
        out=out, people=2, val_people=0, test_people=1, frames=1, size=32, level=0, supersample=1, workers=1
    )
    return replace(small, population=path, detect=False, **changes)


def test_shapes_are_the_mean_and_modes_of_bounded_strength(path: Path, stored: dict[str, np.ndarray]) -> None:
    population, people, rng = Population(path), PeopleSampler(), np.random.default_rng(1)
    assert population.name == "others"
    shapes = np.stack([population.sample(rng, people).vertices for _ in range(200)])
    flat = stored["modes"].reshape(MODES, -1).T.astype(np.float64)
    amounts, *_ = np.linalg.lstsq(flat, (shapes - stored["mean"]).reshape(200, -1).T.astype(np.float64), rcond=None)
    rest = shapes - stored["mean"] - np.einsum("kp,kvc->pvc", amounts, stored["modes"])
    assert np.abs(rest).max() < 1e-2  # mm
    assert np.abs(amounts).max() <= 2.5 + 1e-3 and np.abs(amounts).max() > 2.2
    assert np.abs(amounts.std(axis=1) - 1).max() < 0.15 and np.abs(amounts.mean(axis=1)).max() < 0.25
    assert np.abs(np.corrcoef(amounts) - np.eye(MODES)).max() < 0.25


def test_equal_generators_give_equal_people(path: Path) -> None:
    people = PeopleSampler()
    a, b, other = (Population(path).sample(np.random.default_rng(seed), people) for seed in (5, 5, 6))
    assert a.vertices.dtype == np.float32
    for name, value in vars(a).items():
        np.testing.assert_array_equal(value, getattr(b, name), err_msg=name)
    assert np.abs(a.vertices - other.vertices).mean() > 0.1


@pytest.mark.parametrize("wrong", ["missing", "text", "empty", "array", "cut", "no modes"])
def test_a_file_that_is_no_population_is_named(path: Path, stored: dict[str, np.ndarray], wrong: str) -> None:
    whole = path.read_bytes()
    if wrong == "missing":
        path.unlink()
    elif wrong == "array":
        np.save(path.with_suffix(".npy"), stored["mean"])
        path.with_suffix(".npy").rename(path)
    elif wrong == "no modes":
        np.savez(path, fingerprint=stored["fingerprint"], mean=stored["mean"])
    else:
        path.write_bytes({"text": b"hello", "empty": b"", "cut": whole[: len(whole) // 2]}[wrong])
    with pytest.raises(ValueError, match=r"others\.npz: no population; make one with tools/register_population\.py"):
        Population(path)


def test_a_population_of_another_template_is_refused(path: Path, stored: dict[str, np.ndarray], tmp_path: Path) -> None:
    write(path, stored | {"fingerprint": np.array("0123456789abcdef")})
    with pytest.raises(ValueError, match=r"others\.npz: registered to template 0123456789abcdef, .* register anew"):
        Population(path)
    with pytest.raises(ValueError, match="register anew"):
        generate(config(tmp_path / "clips", path))
    assert not (tmp_path / "clips").exists()


def test_clips_of_a_population_say_so_and_keep_its_shapes(path: Path, tmp_path: Path) -> None:
    generate(config(tmp_path / "clips", path, population_share=1.0))
    population, people = Population(path), PeopleSampler()
    truth, refs = read_truth(tmp_path / "clips", "train"), list_clips(tmp_path / "clips", "train")
    for person, ref in enumerate(refs):
        clip = read_clip(ref)
        assert clip.source == f"synthetic/others/{clip.key}" and clip.detection is None
        rng = np.random.default_rng([0, 0, person])
        rng.random()  # the choice between MakeHuman's people and these
        np.testing.assert_array_equal(truth[ref.key]["vertices"], population.sample(rng, people).vertices)
    settings = read_meta(tmp_path / "clips")["settings"]
    assert settings["population"] == "others.npz" and settings["population_share"] == 1.0
    assert settings["detect"] is False and str(tmp_path) not in str(settings)


def test_a_share_of_the_people_is_of_the_population(path: Path, tmp_path: Path) -> None:
    settings = config(tmp_path, path, population_share=0.5, size=16)
    sources = [render_person(settings, "train", person).clip.source for person in range(16)]
    assert 3 < sum("others" in source for source in sources) < 13
    none, plain = (render_person(config(tmp_path, p, population_share=0.0), "train", 3) for p in (path, None))
    assert "others" not in none.clip.source and plain.clip.source == "synthetic/train-00003"
    with pytest.raises(ValueError, match=r"--population-share must lie in 0\.\.1, got 1\.5"):
        config(tmp_path, path, population_share=1.5)
