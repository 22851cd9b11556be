"""Adapters to libraries without gradients, with the library where it is installed."""

from types import ModuleType

import pytest
import torch

from benchmarks.harness.measure import jobs
from benchmarks.harness.providers import distance, providers
from benchmarks.ops import rasterize, render
from benchmarks.peers import embree, opengl
from fmlfast.camera import look_at
from fmlfast.renderer import render as draw_ours
from tests.benchmarks.peers.test_peers import HEIGHT, WIDTH, soup, tiny

PEERS = {"opengl": opengl, "embree": embree}


@pytest.fixture(params=PEERS)
def peer(request: pytest.FixtureRequest) -> ModuleType:
    if reason := PEERS[request.param].available():
        pytest.skip(reason)
    return PEERS[request.param]


def test_same_picture(peer: ModuleType):
    inputs = soup("cpu")
    found, expected = peer.RUNS["rasterize"](inputs), rasterize.run(inputs, "torch")
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
    assert distance(found, expected) < peer.DIFFERS["rasterize"].forward
    same = found[2] == expected[2]
    assert same.double().mean() > 0.98
    torch.testing.assert_close(found[0][same], expected[0][same], rtol=0, atol=1e-4)
    torch.testing.assert_close(found[1][same], expected[1][same], rtol=1e-5, atol=0)
    with pytest.raises(ValueError, match="not done|both sides"):
        peer.RUNS["rasterize"](inputs | {"cull_backfaces": True})


@pytest.mark.parametrize("shared", [False, True])
def test_render_of_opengl(shared: bool):
    if reason := opengl.available():
        pytest.skip(reason)
    g = torch.Generator().manual_seed(4)
    eyes = torch.tensor([[60.0, 30.0, -40.0], [-50.0, 90.0, 20.0]])
    views = look_at(eyes, torch.tensor([[0.0, 0, 700], [0, 0, 690]]))
    colors = torch.rand(1 if shared else 2, 150, 3, generator=g)
    background = torch.rand(HEIGHT, WIDTH, 3, generator=g)
    inputs = soup("cpu") | {"colors": colors, "viewmats": views, "background": background, "antialiased": False}
    expected = draw_ours(**inputs, backend="torch").image
    (found,) = opengl.RUNS["render"](inputs)
    wrong = (found - expected).abs().amax(-1) > 1e-4
    assert found.shape == expected.shape and wrong.double().mean() < 0.02


def test_rows_are_of_the_forward_pass_on_the_cpu():
    found = jobs([tiny(rasterize), tiny(render)], "cpu", list(PEERS.values()))
    assert {job.direction for job in found if job.provider.name in PEERS} <= {"forward"}
    on_gpu = {p.name: p.missing for p in providers(tiny(rasterize), "cuda", list(PEERS.values()))}
    assert on_gpu["opengl"] == on_gpu["embree"] == "runs on CPUs alone"
