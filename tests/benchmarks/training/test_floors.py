"""Bytes and arithmetic of a training step against sums done by hand."""

import pytest
import torch

from benchmarks.training.floors import matmul_rate, network_flops, stage_bytes, step_floors
from fmlfast.model.fml import FML


def test_network_arithmetic_is_that_of_its_layers(model: FML):
    encoder, config = model.encoder.train(), model.config
    assert config.channels == (8, 16) and config.input_size == 32
    towers = 16**2 * 27 * 8 + 8**2 * 72 * 16
    heads = 8**2 * (144 * 16 + 16 * 48 + 16 * 48)
    dense = sum(
        layer.in_features * layer.out_features for layer in encoder.modules() if isinstance(layer, torch.nn.Linear)
    )
    assert network_flops(model) == 2 * (towers + heads + dense)
    assert encoder.training


def test_bytes_of_the_optimiser_and_of_the_geometry(model: FML):
    found = stage_bytes(model, 2, 3)
    basis = model.face.reflectance_basis
    others = sum(p.numel() for p in model.parameters()) - basis.numel()
    assert found["optimiser"] == pytest.approx(24 * basis.numel() + 28 * others, rel=0.1)
    lean = stage_bytes(model, 2, 3, moment_bytes=2)["optimiser"]
    assert found["optimiser"] - lean == 8 * basis.numel()
    vertices, expressions = len(model.template.vertices), len(model.template.expressions)
    least = 4 * basis.numel() + 12 * vertices * (expressions + 6)  # both bases read, six frames written
    assert least < found["geometry"] < 1.5 * least
    assert stage_bytes(model, 4, 3)["shading"] == pytest.approx(2 * found["shading"], rel=0.2)


def test_floors_have_the_rows_of_a_profile(model: FML, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("benchmarks.training.floors.copy_bandwidth", lambda device: 1e9)
    monkeypatch.setattr("benchmarks.training.floors.matmul_rate", lambda device, dtype: 1e10)
    floors = step_floors(model, 2, 3)
    assert floors["shading"] == pytest.approx(stage_bytes(model, 2, 3)["shading"] / 1e3)
    assert floors["encode"] == pytest.approx(6 * network_flops(model) / 1e4)
    assert floors["encode, backward"] == 2 * floors["encode"]
    assert all(floor > 0 for floor in floors.values())


def test_rate_of_products_is_a_rate():
    assert 1e8 < matmul_rate("cpu", torch.float32) < 1e13
