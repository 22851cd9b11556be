"""The deformation graph: nodes, skinning, neighbours, expressions on the nodes, orthogonal complement."""

import pytest
import torch

from fmlfast.template.face_template import FaceTemplate
from fmlfast.template.graph import build_graph, fit_expressions, largest_weights, node_edges, skinning_matrix


@pytest.fixture(scope="module", params=[0, 1, 2])
def template(request: pytest.FixtureRequest) -> FaceTemplate:
    return FaceTemplate.default(request.param)


def sheet_and_ball(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A bumpy sheet, and a separate small part over its middle."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    corner = (y * columns + x)[:-1, :-1].flatten()
    lower = torch.stack([corner, corner + 1, corner + columns + 1], 1)
    upper = torch.stack([corner, corner + columns + 1, corner + columns], 1)
    points = torch.stack([x.flatten(), y.flatten(), (0.7 * x + 0.4 * y).sin().flatten()], 1).float()
    part = points[[0, 1, columns]] * 0.1 + torch.tensor([columns / 2, rows / 2, 1.5])
    return torch.cat([points, part]), torch.cat([lower, upper, torch.tensor([[0, 1, 2]]) + rows * columns])


def test_skinning_is_a_partition_of_unity(template: FaceTemplate) -> None:
    assert template.skin_weights.shape == (len(template.vertices), 8) and len(template.node_vertices) == 521
    assert (template.skin_weights.sum(1) - 1.0).abs().max() < 1e-5 and template.skin_weights.min() >= 0.0
    assert 0 <= int(template.skin_indices.min()) and int(template.skin_indices.max()) == 520
    assert len(template.node_vertices.unique()) == 521
    assert torch.allclose(template.nodes, template.vertices[template.node_vertices])


def test_lips_do_not_connect(template: FaceTemplate) -> None:
    """The middle of the upper and of the lower lip touch nearly, yet no node moves both."""
    near = torch.cdist(template.landmarks(template.vertices), template.vertices).argmin(dim=1)
    upper, lower = near[61:64], near[65:68]
    assert torch.cdist(template.vertices[upper], template.vertices[lower]).min() < 6.0, "mm"
    used = template.skin_weights > 1e-4

    def nodes(rows: torch.Tensor) -> set[int]:
        return set(template.skin_indices[rows][used[rows]].tolist())

    assert not nodes(upper) & nodes(lower)


def test_each_eyeball_moves_as_one_piece(template: FaceTemplate) -> None:
    skinning = skinning_matrix(template.skin_indices, template.skin_weights, 521)
    for side in (-1.0, 1.0):
        ball = (template.regions["eyes"] > 0.999) & (template.vertices[:, 0].sign() == side)
        rows = skinning[ball]
        assert len(rows) > 50 and (rows - rows[0]).abs().max() < 1e-5
        center = template.vertices[ball].mean(0)
        assert (rows[0] @ template.nodes - center).norm() < 15.0, "its nodes are the lids around it"


def test_node_edges_are_the_nodes_with_a_common_vertex() -> None:
    template = FaceTemplate.default(0)
    expected = set()
    for row, weights in zip(template.skin_indices.tolist(), template.skin_weights.tolist(), strict=True):
        moving = sorted(node for node, weight in zip(row, weights, strict=True) if weight > 0)
        expected |= {(a, b) for k, a in enumerate(moving) for b in moving[k + 1 :] if a != b}
    assert {tuple(edge) for edge in template.node_edges.tolist()} == expected
    assert torch.equal(FaceTemplate.default(2).node_edges, template.node_edges)
    assert len(template.node_edges.unique()) == 521, "no node is alone"


def test_complement_is_orthonormal_and_kills_every_expression() -> None:
    template = FaceTemplate.default(1)
    basis = template.complement_basis()
    assert basis.shape == (3 * 521, 51)
    assert torch.allclose(basis.T @ basis, torch.eye(51), atol=1e-5)
    on_graph = template.expression_graph
    left_over = on_graph - basis @ (basis.T @ on_graph)
    assert left_over.norm(dim=0).max() < 1e-4 * on_graph.norm(dim=0).min()
    strongest = template.complement_basis(10)
    assert torch.allclose(strongest @ strongest.T @ basis[:, :10], basis[:, :10], atol=1e-4)
    part = (strongest.T @ on_graph).square().sum() / on_graph.square().sum()
    generator = torch.Generator().manual_seed(1)
    other, _ = torch.linalg.qr(on_graph @ torch.randn(51, 10, generator=generator))
    assert part > (other.T @ on_graph).square().sum() / on_graph.square().sum(), "no 10 directions hold more"
    assert template.complement_basis(0).shape == (3 * 521, 0)
    for rank in (-1, 52):
        with pytest.raises(ValueError, match="between 0 and 51"):
            template.complement_basis(rank)


def test_expressions_on_the_graph_move_the_face_alike(template: FaceTemplate) -> None:
    skinning = skinning_matrix(template.skin_indices, template.skin_weights, 521)
    for name in ("jawOpen", "mouthSmileLeft", "browInnerUp"):
        k = template.expression_names.index(name)
        wanted = template.expressions[k]
        made = skinning @ template.expression_graph[:, k].reshape(521, 3)
        face = template.regions["face"] > 0.5
        assert (made - wanted)[face].norm() < 0.3 * wanted[face].norm(), name


def test_fit_recovers_node_displacements() -> None:
    generator = torch.Generator().manual_seed(4)
    skinning = torch.rand(90, 7, generator=generator).softmax(dim=1)
    nodes = torch.randn(7, 3, 2, generator=generator)  # [G, 3, E]
    moved = torch.einsum("vg,gce->evc", skinning, nodes)
    moved[:, 80:] += 100.0
    weights = (torch.arange(90) < 80).float()
    fitted = fit_expressions(skinning, moved, weights, ridge=1e-9)
    assert torch.allclose(fitted, nodes.reshape(21, 2), atol=1e-2)
    assert fit_expressions(skinning, moved, weights, ridge=10.0).norm() < 0.9 * fitted.norm()


def test_build_graph_on_a_sheet() -> None:
    points, triangles = sheet_and_ball(13, 17)
    graph = build_graph(points, triangles, num_nodes=30, neighbors=5)
    assert len(graph.node_vertices.unique()) == 30 and graph.node_vertices.max() < 13 * 17
    assert torch.allclose(graph.skin_weights.sum(1), torch.ones(len(points)), atol=1e-6)
    own = graph.skin_indices[graph.node_vertices, 0]
    assert torch.equal(own.long(), torch.arange(30)), "a node is its own nearest node"
    assert (torch.diff(graph.skin_weights[: 13 * 17], dim=1) <= 1e-6).all(), "nearer nodes weigh more"
    gaps = torch.cdist(points[graph.node_vertices], points[graph.node_vertices]) + 100.0 * torch.eye(30)
    assert gaps.min() > 1.5, "nodes spread out"
    part = graph.skin_weights[-3:], graph.skin_indices[-3:]
    assert (part[0] == part[0][0]).all() and (part[1] == part[1][0]).all(), "a separate part is rigid"
    assert (points[graph.node_vertices[part[1][0].long()]] - points[-1]).norm(dim=1).max() < 7.0

    density = torch.where(points[:, 0] < 8.0, 1.0, 0.25)
    dense = build_graph(points, triangles, num_nodes=30, neighbors=5, density=density)
    assert (points[dense.node_vertices, 0] < 8.0).sum() > (points[graph.node_vertices, 0] < 8.0).sum() + 4
    none = build_graph(points, triangles, num_nodes=30, neighbors=5, density=(points[:, 0] < 8.0).float())
    assert points[none.node_vertices, 0].max() < 8.0


def test_build_graph_refuses_what_does_not_fit() -> None:
    points, triangles = sheet_and_ball(5, 5)
    with pytest.raises(ValueError, match="26 nodes .* 25 vertices"):
        build_graph(points, triangles, num_nodes=26, neighbors=5)
    with pytest.raises(ValueError, match="5 nodes with 5 neighbours"):
        build_graph(points, triangles, num_nodes=5, neighbors=5)


def test_largest_weights_keep_the_largest() -> None:
    matrix = torch.tensor([[0.1, 0.0, 0.5, 0.4], [0.3, 0.3, 0.0, 0.4]])
    indices, weights = largest_weights(matrix, 2)
    assert indices[0].tolist() == [2, 3] and weights[0].tolist() == pytest.approx([5 / 9, 4 / 9])
    assert indices[1, 0] == 3 and torch.allclose(weights.sum(1), torch.ones(2))
    edges = node_edges(indices, weights, 4)
    assert edges.tolist()[-1] == [2, 3] and len(edges) == 2
