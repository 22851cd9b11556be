"""A scene with the arguments of every registered operation."""

import torch
from torch import Tensor

HEIGHT, WIDTH = 9, 12


class Scene:
    """A soup of 20 triangles over 2 frames, with all that the operations need; leaves have gradients."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        g = torch.Generator().manual_seed(5)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=g, dtype=torch.float32).to(dtype)

        self.vertices = (
            uniform(2, 30, 3) * torch.tensor([60, 60, 50], dtype=dtype) + torch.tensor([-30, -30, 60], dtype=dtype)
        ).requires_grad_()
        self.triangles = torch.randint(0, 30, (20, 3), generator=g, dtype=torch.int32)
        self.Ks = torch.tensor([[10, 0, WIDTH / 2], [0, 10, HEIGHT / 2], [0, 0, 1]], dtype=dtype).repeat(2, 1, 1)
        flat = torch.cat([self.vertices.detach(), 70 * uniform(2, 30, 1)], -1)
        self.positions = (flat * torch.tensor([1, 1, 0.01, 1], dtype=dtype)).requires_grad_()
        self.colors = uniform(2, 30, 3).requires_grad_()
        self.image = uniform(2, HEIGHT, WIDTH, 2).requires_grad_()
        self.texels = uniform(1, 8, 4, 3).requires_grad_()
        self.mips = uniform(1, 11, 3).requires_grad_()
        self.uv = uniform(2, 5, 6, 2).requires_grad_()
        self.uv_da = uniform(2, 5, 6, 4).requires_grad_()
        self.bias = uniform(2, 5, 6).requires_grad_()
        self.codes = uniform(2, 3).requires_grad_()
        self.basis = uniform(3, 96).requires_grad_()
        self.mean = uniform(90).requires_grad_()
        self.edges = torch.randint(0, 30, (40, 2), generator=g)
        self.weights = uniform(2, 3, 30) - 0.3
        self.seen = uniform(2, 3, 30, 3)
        self.chroma = uniform(2, 30, 2)
        self.sh = uniform(2, 9, 3).requires_grad_()
        self.skin = torch.randint(0, 30, (25, 4), generator=g), uniform(25, 4)
        self.rest, self.moved = uniform(25, 3).requires_grad_(), uniform(2, 30, 3).requires_grad_()
        self.expressions, self.delta = uniform(4, 25, 3).requires_grad_(), uniform(2, 1, 4).requires_grad_()
        self.rotation = torch.linalg.qr(uniform(2, 1, 3, 3)).Q.contiguous().requires_grad_()
        self.translation = uniform(2, 1, 3).requires_grad_()
        self.photos = uniform(2, 3, HEIGHT, WIDTH)

    @property
    def template(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The first six arguments of `deform`."""
        return self.rest, self.moved, *self.skin, self.expressions, self.delta
