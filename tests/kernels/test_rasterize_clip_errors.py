"""What clip-space rasterisation refuses, naming the argument."""

import pytest
import torch

from fmlfast.kernels.common.fragments import Fragments
from fmlfast.kernels.rasterize_clip import rasterize_clip

LAYER = Fragments(torch.zeros(1, 4, 4, dtype=torch.int32), torch.zeros(1, 4, 4, 3), torch.zeros(1, 4, 4))
RANGES = torch.tensor([[0, 2]], dtype=torch.int32)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("positions", {"positions": torch.zeros(1, 4, 3)}),
        ("positions", {"positions": torch.zeros(4, 4)}),
        ("positions", {"positions": torch.zeros(1, 4, 4, dtype=torch.float16)}),
        ("positions must be \\[V, 4\\]", {"ranges": RANGES}),
        ("positions must be contiguous", {"positions": torch.ones(1, 4, 4).mT}),
        ("triangles", {"triangles": torch.tensor([[0, 1, 4]])}),
        ("triangles must be at most", {"triangles": torch.zeros(1, 3, dtype=torch.int32).expand(2**31 - 9, 3)}),
        ("height", {"height": 0}),
        ("width", {"width": 1 << 16}),
        ("ranges must be int32", {"positions": torch.ones(4, 4), "ranges": RANGES.long()}),
        ("ranges must be \\[F, 2\\]", {"positions": torch.ones(4, 4), "ranges": RANGES[0]}),
        ("ranges must be first", {"positions": torch.ones(4, 4), "ranges": RANGES + 1}),
        ("ranges must be first", {"positions": torch.ones(4, 4), "ranges": -RANGES}),
        ("ranges must be on the CPU", {"positions": torch.ones(4, 4), "ranges": RANGES.to("meta")}),
        ("behind must be what rasterize_clip", {"behind": LAYER.depth}),
        ("behind.triangle_id", {"behind": LAYER, "height": 5}),
        ("behind.depth must be float64", {"behind": LAYER, "positions": torch.ones(1, 4, 4).double()}),
        ("backend", {"backend": "cuda"}),
        ("backend 'triton' computes", {"backend": "triton", "positions": torch.ones(1, 4, 4).double()}),
    ],
)
def test_bad_input_names_the_argument(name: str, change: dict):
    triangles = torch.zeros(2, 3, dtype=torch.int32)
    good = {"positions": torch.ones(1, 4, 4), "triangles": triangles, "height": 4, "width": 4}
    rasterize_clip(**good)
    rasterize_clip(torch.ones(4, 4), triangles, 4, 4, RANGES, LAYER)
    with pytest.raises(ValueError, match=f"^{name}"):
        rasterize_clip(**(good | change))
