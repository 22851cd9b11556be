"""Adapters to other libraries are held to our results: with the library where it is installed, with its rules anyway.

rules.py has the rules.
"""

import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.harness.case import Bench, Inputs, Outputs
from benchmarks.harness.measure import gradients, leaves, upstream
from benchmarks.harness.providers import distance
from benchmarks.harness.scenes import Scene, sphere_of
from benchmarks.ops import antialias, interpolate, normals, rasterize, render
from benchmarks.peers import common, drtk, nvdiffrast, pytorch3d, pytorch3d_tuned
from benchmarks.peers.pytorch3d import Bins
from fmlfast.camera import look_at, to_camera
from fmlfast.renderer import render as draw_ours
from tests.benchmarks.peers.rules import FAKES

HEIGHT, WIDTH, FRAMES = 19, 31, 2
PEERS = {"drtk": drtk, "nvdiffrast": nvdiffrast, "pytorch3d": pytorch3d}
OPS = {"rasterize": rasterize, "interpolate": interpolate, "antialias": antialias}


LIBRARIES = [(name, "rules", "cpu") for name in PEERS] + [
    ("drtk", "installed", "cpu"),
    ("pytorch3d", "installed", "cpu"),
    *(pytest.param((name, "installed", "cuda"), marks=pytest.mark.gpu) for name in PEERS),
]


def pretend(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for module, fake in FAKES[name].items():
        monkeypatch.setitem(sys.modules, module, fake)


@pytest.fixture(params=LIBRARIES, ids=lambda p: "-".join(p))
def peer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, str, bool]:
    """An adapter, its device, and whether the library is only its rules."""
    name, kind, device = request.param
    if kind == "rules":
        pretend(monkeypatch, name)
    elif reason := PEERS[name].available():
        pytest.skip(reason)
    return PEERS[name], device, kind == "rules"


def soup(device: str, op: str = "rasterize") -> Inputs:
    """Triangles without symmetry in an oblong picture: an off-centre, oblong, skewed camera, all in front of it."""
    g = torch.Generator().manual_seed(3)
    rand = lambda *shape: torch.rand(*shape, generator=g)  # noqa: E731
    at = (rand(FRAMES, 50, 1, 3) - 0.5) * 420 + (rand(FRAMES, 50, 3, 3) - 0.5) * 260
    vertices = at.flatten(1, 2) + torch.tensor([10.0, -20.0, 700.0])
    Ks = torch.tensor(
        [[[32.0, 4.0, 13.2], [0, 41.0, 8.1], [0, 0, 1]], [[29.0, -3.0, 17.7], [0, 35.0, 10.9], [0, 0, 1]]]
    )
    inputs = {"vertices": vertices, "triangles": torch.arange(150).int().view(-1, 3), "Ks": Ks}
    inputs = {name: x.to(device) for name, x in inputs.items()}
    size = {"height": HEIGHT, "width": WIDTH}
    if op == "rasterize":
        return inputs | size
    barycentrics, depth, ids = rasterize.run(inputs | size, "torch")
    seen = {"triangle_id": ids, "barycentrics": barycentrics, "depth": depth}
    if op == "antialias":
        return inputs | seen | {"image": rand(FRAMES, HEIGHT, WIDTH, 4).to(device)}
    return seen | {"triangles": inputs["triangles"], "attributes": rand(FRAMES, 150, 3).to(device)}


def results(run: Callable[[Inputs], Outputs], bench: Bench, inputs: Inputs) -> tuple[Outputs, Outputs]:
    """Results and gradients of a random sum of them."""
    inputs = leaves(bench, inputs)
    outputs = run(inputs)
    return tuple(x.detach() for x in outputs), gradients(outputs, inputs, bench, upstream(outputs))


def tiny(module: Any) -> Bench:
    return module.case(Scene(1, 1, sphere_of(100), 8, "test"))


@pytest.mark.parametrize("op", ["rasterize", "interpolate"])
def test_same_results_and_gradients(peer: tuple[ModuleType, str, bool], op: str):
    adapter, device, rules = peer
    inputs, bench = soup(device, op), tiny(OPS[op])
    found, found_gradients = results(adapter.RUNS[op], bench, inputs)
    expected, expected_gradients = results(lambda inputs: bench.run(inputs, "torch"), bench, inputs)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype and a.device == b.device
    covered = (inputs["triangle_id"] if op == "interpolate" else expected[2]) >= 0
    assert 0.2 < covered.double().mean() < 0.95
    if op == "rasterize":
        wrong = [expected[2].flip(1), expected[2].flip(2), expected[2].roll(1, 1), expected[2].roll(1, 2)]
        assert min((ids != expected[2]).double().mean() for ids in wrong) > 0.2
    exact = rules or adapter is not nvdiffrast
    limit = adapter.DIFFERS.get(op)
    assert distance(found, expected) < (1e-4 if exact or limit is None else limit.forward)
    if adapter is nvdiffrast and op == "interpolate":  # two weights of three that sum to 1
        b = expected_gradients[1]
        expected_gradients = expected_gradients[0], torch.cat([b[..., :2] - b[..., 2:], 0 * b[..., 2:]], -1)
    assert distance(found_gradients, expected_gradients) < (2e-3 if exact or limit is None else limit.backward)


@pytest.mark.parametrize("background", [None, "constant", "image"])
def test_render_draws_what_we_draw_without_antialiasing(peer: tuple[ModuleType, str, bool], background: str | None):
    adapter, device, rules = peer
    g = torch.Generator().manual_seed(4)
    rand = lambda *shape: torch.rand(*shape, generator=g)  # noqa: E731
    views = look_at(
        torch.tensor([[60.0, 30.0, -40.0], [-50.0, 90.0, 20.0]]), torch.tensor([[0.0, 0, 700], [0, 0, 690]])
    )
    inputs = soup("cpu")
    turned = inputs["vertices"][:1] * torch.tensor([1.0, -1.0, 1.0])
    inputs |= {"vertices": turned, "colors": rand(1, 150, 3), "viewmats": views, "antialiased": False}
    if background is not None:
        inputs["background"] = rand(3) if background == "constant" else rand(HEIGHT, WIDTH, 3)
    inputs = {name: x.to(device) if isinstance(x, Tensor) else x for name, x in inputs.items()}
    bench = tiny(render)
    found, found_gradients = results(adapter.RUNS["render"], bench, inputs)
    expected, expected_gradients = results(lambda i: (draw_ours(**i, backend="torch").image,), bench, inputs)
    exact = rules or adapter is not nvdiffrast
    assert distance(found, expected) < (1e-4 if exact else adapter.DIFFERS["render"].forward)
    assert distance(found_gradients, expected_gradients) < (2e-3 if exact else adapter.DIFFERS["render"].backward)
    if rules:  # which check what they are to blend, and blend nothing
        assert distance(adapter.RUNS["render"](inputs | {"antialiased": True}), expected) < 1e-4
    in_front = to_camera(inputs["vertices"].expand(2, -1, -1), inputs["viewmats"])[..., 2] > 100
    assert in_front.all() and expected[0].std() > 0.05


def test_one_set_of_attributes(peer: tuple[ModuleType, str, bool]):
    """Shared by all frames, or of the only frame."""
    adapter, device, _ = peer
    inputs, bench = soup(device, "interpolate"), tiny(interpolate)
    shared = inputs | {"attributes": inputs["attributes"][:1]}
    single = {name: x if name == "triangles" else x[:1] for name, x in inputs.items()}
    for chosen in (shared, single):
        found, _ = results(adapter.RUNS["interpolate"], bench, chosen)
        expected, _ = results(lambda inputs: bench.run(inputs, "torch"), bench, chosen)
        assert distance(found, expected) < 1e-5


def test_antialias_gets_what_belongs_together(peer: tuple[ModuleType, str, bool]):
    """The rules check what they are given; a library may blend otherwise than we do, at silhouettes alone."""
    adapter, device, rules = peer
    if "antialias" not in adapter.RUNS:
        pytest.skip("has none")
    inputs = soup(device, "antialias")
    (found,), found_gradients = results(adapter.RUNS["antialias"], tiny(antialias), inputs)
    inside = torch.ones_like(inputs["triangle_id"], dtype=torch.bool)
    for axis in (1, 2):
        for step in (1, -1):
            inside &= inputs["triangle_id"] == inputs["triangle_id"].roll(step, axis)
    torch.testing.assert_close(found[inside], inputs["image"][inside])
    assert rules or found_gradients[1].abs().max() > 0


def test_normals_of_pytorch3d(peer: tuple[ModuleType, str, bool]):
    adapter, device, _ = peer
    if adapter is not pytorch3d:
        pytest.skip("PyTorch3D's alone")
    bench = tiny(normals)
    inputs = bench.make(device, 0)
    found, found_gradients = results(adapter.RUNS["vertex_normals"], bench, inputs)
    expected, expected_gradients = results(lambda i: bench.run(i, "torch"), bench, inputs)
    assert distance(found, expected) < 1e-5 and distance(found_gradients, expected_gradients) < 1e-4


def test_one_side_only():
    with pytest.raises(ValueError, match="both sides"):
        drtk.rasterize(soup("cpu") | {"cull_backfaces": True})
    with pytest.raises(ValueError, match="both sides"):
        nvdiffrast.rasterize(soup("cpu") | {"cull_backfaces": True})


def test_culling_of_pytorch3d(peer: tuple[ModuleType, str, bool]):
    adapter, device, _ = peer
    if adapter is not pytorch3d:
        pytest.skip("PyTorch3D's alone")
    inputs = soup(device) | {"cull_backfaces": True}
    expected = rasterize.run(inputs, "torch")
    assert distance(adapter.RUNS["rasterize"](inputs), expected) < 1e-4
    assert (expected[2] != rasterize.run(soup(device), "torch")[2]).double().mean() > 0.1


def test_tuned_bins_lose_no_triangles(monkeypatch: pytest.MonkeyPatch):
    """Bins that are too full are refused, however fast; of the others the fastest is taken, once."""
    calls: list[Bins] = []
    good = Bins(32, 10_000)

    def draw(inputs: Inputs, bins: Bins) -> pytorch3d.Seen:
        calls.append(bins)
        if bins.most == 1_000 or bins.size in (None, 8):
            ids = torch.full((1, 2, 2, 1), -1)
        else:
            time.sleep(0.0 if bins == good else 0.01)
            ids = torch.zeros(1, 2, 2, 1, dtype=torch.int64)
        return pytorch3d.Seen(ids, ids.float(), ids.float())

    monkeypatch.setattr(pytorch3d_tuned, "draw", draw)
    inputs = soup("cpu") | {"height": 240, "width": 240}
    assert pytorch3d_tuned.fastest(inputs) == good
    assert Bins(8, None) not in calls and Bins(16, None) in calls  # 240 / 8 is more than PyTorch3D takes
    count = len(calls)
    assert pytorch3d_tuned.fastest(inputs) == good and len(calls) == count


def test_why_a_library_cannot_be_used(tmp_path: Any, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "broken_peer.py").write_text("import module_that_is_not_there\n")
    (tmp_path / "old_peer.py").write_text("raise ImportError('undefined symbol: x')\n")
    (tmp_path / "sound_peer.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert common.missing("peer_that_is_not_there.torch") == "not installed"
    assert common.missing("broken_peer") == "needs module_that_is_not_there"
    assert common.missing("old_peer") == "does not load: undefined symbol: x"
    assert common.missing("sound_peer") == ""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert common.missing("sound_peer", gpu=True) == "needs a GPU"


def test_distance():
    a, b = torch.tensor([3.0, 4.0, torch.inf]), torch.tensor([3.0, 4.5, torch.inf])
    ids = torch.tensor([1, 2, 3, 4])
    assert distance((b, ids), (a, ids)) == pytest.approx(0.1)
    assert distance((a, ids), (a, torch.tensor([1, 2, 3, 9]))) == pytest.approx(0.25)
