"""Builds the coarse deformation graph: geodesic nodes, translation-only skinning, expressions on nodes (FML 4.1)."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmlfast.common.extras import require
from fmlfast.kernels.common.topology import unique_edges

RIGID_ANCHORS = 24  # vertices of the main surface that carry a separate part, such as an eyeball


@dataclass(frozen=True)
class Graph:
    """Deformation graph with nodes at vertices; row i holds K nodes that move vertex i and their weights.

    Weights of a row sum to 1.
    """

    node_vertices: Tensor  # [G] int64
    skin_indices: Tensor  # [V, K] int32
    skin_weights: Tensor  # [V, K] float32


def build_graph(
    vertices: Tensor,
    triangles: Tensor,
    num_nodes: int = 521,
    neighbors: int = 8,
    density: Tensor | None = None,
    start: int = 0,
) -> Graph:
    """Samples nodes on the largest connected surface and skins every vertex to its geodesic neighbours.

    Nodes are selected by farthest-point sampling of the geodesic distance along edges. A vertex at distances d_1 <= d_2
    .. from the nodes gets weights (1 - d_k / d_(K+1))^2, normalised (Sumner et al. 2007, equation 4), so that a weight
    fades to 0 before its node leaves the K nearest. A part that is not connected to the largest surface moves rigidly:
    all its vertices share one row, the mean of the rows of the surface closest to it.

    Args:
        vertices: [V, 3] mm, with the lips apart.
        triangles: [T, 3] integer.
        num_nodes: G.
        neighbors: K.
        density: [V] relative density of nodes (the local spacing is proportional to its inverse); 0 means no node.
        start: vertex id of the first node.

    Raises:
        ValueError: if the surface has fewer eligible vertices than `num_nodes`, or `neighbors` >= `num_nodes`.
    """
    csgraph = require("scipy.sparse.csgraph", "template")
    points = vertices.detach().cpu().double().numpy()  # [V, 3]
    edges = unique_edges(triangles).cpu().numpy()  # [N, 2]
    wanted = np.ones(len(points)) if density is None else density.cpu().double().numpy()
    lengths = np.linalg.norm(points[edges[:, 0]] - points[edges[:, 1]], axis=1)
    true_metric = _adjacency(len(points), edges, lengths)
    label = csgraph.connected_components(true_metric, directed=False)[1]
    main = label == label[start]
    eligible = main & (wanted > 0.0)
    if not neighbors < num_nodes <= eligible.sum():
        raise ValueError(
            f"{num_nodes} nodes with {neighbors} neighbours do not fit a surface of {int(eligible.sum())} vertices"
        )
    stretched = _adjacency(len(points), edges, lengths * 0.5 * (wanted[edges[:, 0]] + wanted[edges[:, 1]]) + 1e-9)
    nodes = _farthest_points(stretched, eligible, num_nodes, start)

    distance = csgraph.dijkstra(true_metric, directed=False, indices=nodes).T  # [V, G]
    skin_indices = np.zeros((len(points), neighbors), np.int32)
    skin_weights = np.zeros((len(points), neighbors), np.float32)
    order = np.argsort(distance[main], axis=1, kind="stable")[:, : neighbors + 1]  # [main, K + 1]
    near = np.take_along_axis(distance[main], order, axis=1)
    weight = (1.0 - near[:, :-1] / near[:, -1:]) ** 2 + 1e-12
    skin_indices[main], skin_weights[main] = order[:, :-1], weight / weight.sum(1, keepdims=True)
    for part in np.setdiff1d(label, label[start]):
        member = label == part
        skin_indices[member], skin_weights[member] = _rigid_row(points, member, main, skin_indices, skin_weights)
    return Graph(torch.from_numpy(nodes), torch.from_numpy(skin_indices), torch.from_numpy(skin_weights))


def _adjacency(count: int, edges: NDArray[np.int64], lengths: NDArray[np.float64]):
    sparse = require("scipy.sparse", "template")
    return sparse.coo_matrix((lengths, (edges[:, 0], edges[:, 1])), shape=(count, count)).tocsr()


def _farthest_points(metric, eligible: NDArray[np.bool_], count: int, start: int) -> NDArray[np.int64]:
    csgraph = require("scipy.sparse.csgraph", "template")
    nodes, distance = [start], np.full(len(eligible), np.inf)
    for _ in range(count - 1):
        distance = np.minimum(distance, csgraph.dijkstra(metric, directed=False, indices=nodes[-1]))
        nodes.append(int(np.argmax(np.where(eligible, distance, -1.0))))
    return np.array(nodes)


def _rigid_row(
    points: NDArray[np.float64],
    member: NDArray[np.bool_],
    main: NDArray[np.bool_],
    skin_indices: NDArray[np.int32],
    skin_weights: NDArray[np.float32],
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    part = points[member][:: max(1, int(member.sum()) // 256)]  # [P, 3], a sample is enough
    around = np.flatnonzero(main)
    gap = np.min(np.linalg.norm(points[around][:, None] - part[None], axis=2), axis=1)
    anchors = around[np.argsort(gap, kind="stable")[:RIGID_ANCHORS]]
    total = np.bincount(skin_indices[anchors].ravel(), weights=skin_weights[anchors].ravel())
    best = np.argsort(-total, kind="stable")[: skin_indices.shape[1]]
    return best.astype(np.int32), (total[best] / total[best].sum()).astype(np.float32)


def node_edges(skin_indices: Tensor, skin_weights: Tensor, num_nodes: int) -> Tensor:
    """Lists the pairs [N, 2] int64, smaller first, of nodes that skin a common vertex.

    skin_indices, skin_weights: [V, K].
    """
    k = skin_indices.shape[1]
    first, second = torch.triu_indices(k, k, offset=1)
    used = skin_weights > 0.0  # [V, K]
    both = used[:, first] & used[:, second]
    joined = torch.zeros(num_nodes, num_nodes, dtype=torch.bool)
    joined[skin_indices[:, first][both].long(), skin_indices[:, second][both].long()] = True
    return (joined | joined.T).triu(diagonal=1).nonzero()


def skinning_matrix(skin_indices: Tensor, skin_weights: Tensor, num_nodes: int) -> Tensor:
    """Converts the skinning to a dense matrix [V, G] float32."""
    dense = torch.zeros(len(skin_indices), num_nodes)
    return dense.scatter_add_(1, skin_indices.long(), skin_weights)


def largest_weights(matrix: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Selects the `count` largest weights of each row of a dense matrix [V, G] and normalises them.

    Returns int32 indices and weights, [V, count].
    """
    weights, indices = matrix.topk(count, dim=1)
    return indices.int(), weights / weights.sum(1, keepdim=True)


def fit_expressions(skinning: Tensor, expressions: Tensor, vertex_weights: Tensor, ridge: float = 1e-3) -> Tensor:
    """Fits node displacements E_G to each expression E by ridge-regularised least squares.

    argmin sum_i w_i |S_i E_G - E_i|^2 + ridge |E_G|^2, over vertices i.

    Args:
        skinning: S [V, G].
        expressions: [E, V, 3] mm.
        vertex_weights: w [V], 0 for vertices to ignore.
        ridge: keeps nodes with little skinning weight near zero displacement.

    Returns:
        [3G, E] float32, node-major, xyz interleaved (paper section 4.1: E expressed on the graph).
    """
    count, nodes = len(expressions), skinning.shape[1]
    s, e = skinning.double(), expressions.double().permute(1, 0, 2).reshape(len(skinning), count * 3)
    weighted = s.T * vertex_weights.double()  # [G, V]
    solution = torch.linalg.solve(weighted @ s + ridge * torch.eye(nodes, dtype=torch.float64), weighted @ e)
    return solution.reshape(nodes, count, 3).permute(0, 2, 1).reshape(3 * nodes, count).float()
