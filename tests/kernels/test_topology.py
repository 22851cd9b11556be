"""Adjacency of meshes, what is remembered about a tensor, and sums in fixed point."""

import gc

import numpy as np
import pytest
import torch

from benchmarks.harness.scenes import sphere
from fmlfast.kernels.common.cache import TensorCache
from fmlfast.kernels.common.checks import check_corners, check_tensor
from fmlfast.kernels.common.fixed_point import fixed_point_scale, from_fixed_point
from fmlfast.kernels.common.topology import mesh_edges, topology, unique_edges


def test_rings_and_neighbors_of_random_triangles():
    g = torch.Generator().manual_seed(0)
    triangles = torch.randint(0, 14, (37, 3), generator=g, dtype=torch.int32)
    triangles = triangles[(triangles != triangles.roll(1, 1)).all(1)]
    mesh = topology(triangles, 15)
    for vertex in range(15):
        ring = mesh.ring[mesh.ring_start[vertex] : mesh.ring_start[vertex + 1]].tolist()
        corners = [(t, t.index(vertex)) for t in triangles.tolist() if vertex in t]
        assert sorted(ring) == sorted([t[(k + 1) % 3], t[(k + 2) % 3]] for t, k in corners)
    pairs = 0
    for t, triangle in enumerate(triangles.tolist()):
        for k in range(3):
            edge = {triangle[(k + 1) % 3], triangle[(k + 2) % 3]}
            others = [s for s, other in enumerate(triangles.tolist()) if edge <= set(other)]
            neighbor = int(mesh.neighbors[t, k])
            if len(others) == 2:
                pairs += 1
                other = sum(others) - t
                opposite = (set(triangles[other].tolist()) - edge).pop()
                assert neighbor // 3 == other and int(triangles.flatten()[neighbor]) == opposite
            else:
                assert neighbor == -1
    assert 0 < pairs < 3 * len(triangles)


def test_rings_of_vertices_are_fans():
    triangles = torch.tensor([[0, 1, 2], [0, 3, 4], [0, 2, 3], [0, 4, 1], [5, 7, 8], [5, 6, 7], [5, 9, 10], [5, 7, 6]])
    mesh = topology(triangles, 11)
    rings = mesh.ring.split(mesh.ring_start.diff().tolist())
    assert rings[0].tolist() == [[1, 2], [2, 3], [3, 4], [4, 1]], "closed, from its first triangle on"
    assert rings[5].tolist() == [[9, 10], [7, 6], [6, 7], [7, 8]], "open, in two parts"
    points, triangles = sphere(3, 1.0)
    ball = topology(triangles, len(points))
    rings = ball.ring.split(ball.ring_start.diff().tolist())
    assert all(torch.equal(ring[:, 0], ring[:, 1].roll(1)) for ring in rings)


def test_edges_of_random_triangles():
    g = torch.Generator().manual_seed(1)
    triangles = torch.randint(0, 14, (37, 3), generator=g, dtype=torch.int32)
    sides = [tuple(sorted((t[k], t[(k + 1) % 3]))) for k in range(3) for t in triangles.tolist()]
    expected = sorted(set(sides))
    edges = mesh_edges(triangles)
    assert [tuple(end) for end in edges.ends.tolist()] == expected and torch.equal(unique_edges(triangles), edges.ends)
    assert edges.triangles.tolist() == [sides.count(edge) for edge in expected]
    assert [expected[i] for i in edges.of_side.tolist()] == sides
    assert len(expected) < len(sides) and edges.ends.dtype == torch.int64


def test_a_tensor_is_looked_at_once_until_it_changes():
    cache, tensor, made = TensorCache(), torch.zeros(3), []
    for _ in range(2):
        assert cache.get(tensor, "sum", lambda: made.append(1) or len(made)) == 1
    tensor += 1
    assert cache.get(tensor, "sum", lambda: made.append(1) or len(made)) == 2
    assert cache.get(tensor, "other", lambda: 7) == 7
    with torch.inference_mode():
        constant = torch.zeros(3)
    assert [cache.get(constant, None, lambda: made.append(1) or len(made)) for _ in range(2)] == [3, 4]
    del tensor
    gc.collect()
    assert len(cache._known) == 0


def test_changed_triangles_are_checked_again():
    triangles = torch.tensor([[0, 1, 2]])
    check_corners(triangles, 3)
    first = topology(triangles, 3)
    assert topology(triangles, 3) is first
    triangles[0, 2] = 3
    with pytest.raises(ValueError, match="^triangles hold the index 3, but there are 3 vertices"):
        check_corners(triangles, 3)
    assert topology(triangles, 4) is not first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tensor": [1.0]}, "a must be a tensor, not list"),
        ({"tensor": torch.zeros(2, 3)}, r"a must be \[F, V, 3\], not \[2, 3\]"),
        ({"tensor": torch.zeros(2, 3, 4)}, r"a must be \[F, V, 3\], not \[2, 3, 4\]"),
        ({"tensor": torch.zeros(2, 4, 3, dtype=torch.int64)}, "a must be float32 or float64, not int64"),
        ({"tensor": torch.zeros(2, 4, 3, device="meta")}, "a is on meta, b on cpu"),
        ({"tensor": torch.zeros(4, 2, 3).transpose(0, 1)}, r"a must be contiguous: pass a.contiguous\(\)"),
    ],
)
def test_check_names_the_argument(change: dict, message: str):
    good = {"name": "a", "tensor": torch.zeros(2, 4, 3), "shape": ("F", "V", 3), "like": ("b", torch.zeros(1))}
    check_tensor(**good)
    with pytest.raises(ValueError, match=f"^{message}"):
        check_tensor(**(good | change))


@pytest.mark.parametrize("magnitude", [1e-20, 1e-3, 1.0, 3e30])
def test_fixed_point_sums_do_not_depend_on_the_order(magnitude: float):
    g = torch.Generator().manual_seed(1)
    values = (torch.rand(1, 10_007, generator=g) - 0.4) * magnitude
    values[0, 0] = magnitude
    scale = fixed_point_scale(values.abs().amax(1), values.numel())
    assert torch.equal(torch.frexp(scale).mantissa, torch.full_like(scale, 0.5))  # a power of two
    units = (values * scale[:, None]).long()
    assert int(units.abs().max()) < 2**62 // 10_007
    exact = values.double().sum(1)
    for order in (torch.arange(10_007), torch.randperm(10_007, generator=g)):
        total = torch.zeros(1, dtype=torch.int64)
        for part in units[:, order].split(100, 1):
            total += part.sum(1)
        torch.testing.assert_close(from_fixed_point(total, scale).double(), exact, rtol=1e-7, atol=1e-42)


def test_fixed_point_of_broken_numbers_is_nan_and_of_nothing_is_zero():
    scale = fixed_point_scale(torch.tensor([torch.inf, torch.nan, 0.0]), 5)
    total = from_fixed_point(torch.tensor([[3, 0], [1, 0], [0, 0]]), scale)
    assert total[:2].isnan().all() and (total[2] == 0).all()


def test_a_change_that_counts_no_version_is_noticed_on_a_cpu():
    array = np.array([[0, 1, 2]])
    triangles = torch.from_numpy(array)
    first = topology(triangles, 3)
    check_corners(triangles, 3)
    array[0, 2] = 7
    assert topology(triangles, 8) is not first and topology(triangles, 8).triangles.tolist() == [[0, 1, 7]]
    with pytest.raises(ValueError, match="^triangles hold the index 7"):
        check_corners(triangles, 3)
    triangles.data[0, 2] = 1
    assert topology(triangles, 8).triangles.tolist() == [[0, 1, 1]]
    triangles.data = torch.tensor([[2, 1, 0], [0, 1, 2]])
    assert topology(triangles, 8).triangles.tolist() == [[2, 1, 0], [0, 1, 2]]
    assert topology(triangles, 8) is topology(triangles, 8)
