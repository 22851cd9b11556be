"""Loop subdivision against its rules and against hand-made meshes."""

import pytest
import torch
from torch import Tensor

from fmlfast.template.subdivision import LoopStep, loop_step, subdivide_points


def grid(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """A regular triangulated grid: positions [V, 2] and triangles [T, 3]."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    corner = (y * columns + x)[:-1, :-1].flatten()
    lower = torch.stack([corner, corner + 1, corner + columns + 1], 1)
    upper = torch.stack([corner, corner + columns + 1, corner + columns], 1)
    return torch.stack([x, y], -1).reshape(-1, 2).float(), torch.cat([lower, upper])


def midpoints(step: LoopStep, triangles: Tensor, values: Tensor) -> Tensor:
    """Values on the finer mesh when old vertices stay and new ones are edge midpoints."""
    fine = torch.full((step.matrix.shape[0], values.shape[1]), float("nan"))
    fine[: len(values)] = values
    middle = step.triangles[3::4]
    for k in range(3):
        fine[middle[:, k]] = 0.5 * (values[triangles[:, k]] + values[triangles[:, (k + 1) % 3]])
    return fine


def random_points(count: int, triangles: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights = -torch.rand(count, 3, generator=generator).log()
    return torch.randint(triangles, (count,), generator=generator), weights / weights.sum(1, keepdim=True)


def test_sizes_and_child_order() -> None:
    points, triangles = grid(4, 6)
    step = loop_step(len(points), triangles)
    edges = {tuple(sorted(pair)) for t in triangles.tolist() for pair in ((t[0], t[1]), (t[1], t[2]), (t[2], t[0]))}
    assert step.matrix.shape == (len(points) + len(edges), len(points))
    assert step.triangles.shape == (4 * len(triangles), 3)
    for corner in range(3):
        assert torch.equal(step.triangles[corner::4, corner], triangles[:, corner])
    fine = midpoints(step, triangles, points)
    a, b, c = (fine[step.triangles[:, k]] for k in range(3))
    area = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
    assert torch.allclose(area, torch.full_like(area, 0.25)), "children keep the orientation and a quarter of the area"


def test_constants_everywhere_and_affine_fields_where_regular() -> None:
    points, triangles = grid(7, 9)
    generator = torch.Generator().manual_seed(5)
    field = points @ torch.randn(2, 3, generator=generator) + torch.randn(3, generator=generator)
    step = loop_step(len(points), triangles)
    assert torch.allclose(torch.sparse.mm(step.matrix, torch.ones(len(points), 1)), torch.ones(step.matrix.shape[0], 1))
    fine, expected = torch.sparse.mm(step.matrix, field), midpoints(step, triangles, field)
    place = midpoints(step, triangles, points)
    corner = ((place[:, 0] == 0) | (place[:, 0] == 8)) & ((place[:, 1] == 0) | (place[:, 1] == 6))
    assert int(corner.sum()) == 4
    assert torch.allclose(fine[~corner], expected[~corner], atol=1e-5)
    assert not torch.allclose(fine[corner], expected[corner], atol=1e-2), "corners follow the boundary curve"


def test_weights_of_a_closed_mesh_are_those_of_loop() -> None:
    triangles = torch.tensor([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]])  # a tetrahedron, valence 3: beta = 3 / 16
    dense = loop_step(4, triangles).matrix.to_dense()
    assert torch.allclose(dense[:4], torch.full((4, 4), 3 / 16) + torch.eye(4) * (7 / 16 - 3 / 16))
    for row in dense[4:]:
        assert sorted(row.tolist()) == pytest.approx([1 / 8, 1 / 8, 3 / 8, 3 / 8])


def test_a_vertex_where_the_border_touches_itself_stays() -> None:
    triangles = torch.tensor([[0, 1, 2], [0, 3, 4]])  # vertex 0 has four border edges
    dense = loop_step(6, triangles).matrix.to_dense()
    assert torch.equal(dense[0], torch.eye(6)[0])
    assert torch.equal(dense[5], torch.eye(6)[5]), "a vertex without triangles stays"
    assert dense[1].tolist() == pytest.approx([1 / 8, 3 / 4, 1 / 8, 0, 0, 0])


def test_points_are_carried_exactly() -> None:
    points, triangles = grid(5, 4)
    triangle, weights = random_points(500, len(triangles), seed=11)
    weights[:6] = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0], [0, 0.5, 0.5], [0.5, 0, 0.5]])
    where = (points[triangles[triangle]] * weights[..., None]).sum(1)
    for _ in range(3):
        step = loop_step(len(points), triangles)
        triangle, weights = subdivide_points(triangle, weights)
        points, triangles = midpoints(step, triangles, points), step.triangles
        assert weights.min() >= -1e-5 and torch.allclose(weights.sum(1), torch.ones(500))
        assert torch.allclose((points[triangles[triangle]] * weights[..., None]).sum(1), where, atol=1e-4)


def test_bad_meshes_are_refused() -> None:
    with pytest.raises(ValueError, match="3 vertices"):
        loop_step(3, torch.tensor([[0, 1, 3]]))
    with pytest.raises(ValueError, match="3 vertices"):
        loop_step(3, torch.tensor([[0, 1, -1]]))
    with pytest.raises(ValueError, match="more than two triangles"):
        loop_step(5, torch.tensor([[0, 1, 2], [1, 0, 3], [0, 1, 4]]))
