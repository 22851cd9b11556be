import torch

from fmlfast.common.graph_laplacian import GraphLaplacian


def test_the_solution_is_that_of_the_dense_system() -> None:
    g = torch.Generator().manual_seed(0)
    edges = torch.randint(40, (90, 2), generator=g).sort(1).values
    edges = edges[edges[:, 0] < edges[:, 1]].unique(dim=0)
    dense = torch.zeros(41, 41, dtype=torch.float64)  # vertex 40 has no neighbour
    for i, j in edges.tolist():
        dense[i, i] += 1
        dense[j, j] += 1
        dense[i, j] -= 1
        dense[j, i] -= 1
    diagonal, right = (torch.rand(41, 3, generator=g, dtype=torch.float64) + 0.01 for _ in range(2))
    found = GraphLaplacian(edges, 41).solve(diagonal, 2.0, right, torch.zeros_like(right), 60)
    columns = [torch.linalg.solve(torch.diag(diagonal[:, c]) + 2.0 * dense, right[:, c]) for c in range(3)]
    torch.testing.assert_close(found, torch.stack(columns, 1), atol=1e-9, rtol=1e-9)
