"""The texture atlas of the shipped template."""

import pytest
import torch
from torch import Tensor

from fmlfast.renderer import rasterize
from fmlfast.template.assets import load_assets
from fmlfast.template.face_template import FaceTemplate
from tests.helpers.mesh_parts import connected_parts

TEXELS, MARGIN = 1024, 4
FLIP = torch.tensor([-1.0, 1.0])


@pytest.fixture(scope="module", params=[0, 2])
def template(request: pytest.FixtureRequest) -> FaceTemplate:
    return FaceTemplate.default(request.param)


def charted(template: FaceTemplate) -> Tensor:
    """The triangles [T, 3] without lashes, which share one triangle of the atlas."""
    triangles = template.triangles.long()
    return triangles[template.regions["lashes"][triangles].amax(1) < 0.01]


def areas(template: FaceTemplate, triangles: Tensor) -> Tensor:
    """Signed areas [T] in texels."""
    a, b, c = (template.uv.double()[triangles[:, k]] * TEXELS for k in range(3))
    return 0.5 * ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0])


def test_no_triangle_is_flipped_and_no_texel_covered_twice(template: FaceTemplate) -> None:
    triangles = charted(template)
    size = areas(template, triangles)
    assert template.uv.min() > 0.0 and template.uv.max() < 1.0 and size.min() > 0.0
    seen = covered(template, triangles)
    assert abs(float(size.sum()) / float((seen >= 0).sum()) - 1.0) < 1e-3, "overlaps would cover less than they measure"
    inside = torch.bincount(seen[seen >= 0], minlength=len(triangles)).double()
    large = size > 60.0
    assert (inside[large] / size[large]).min() > 0.7, "nothing lies over a triangle"


def covered(template: FaceTemplate, triangles: Tensor) -> Tensor:
    """Finds the triangle at each texel, [N, N]; -1 where none is."""
    flat = torch.cat([template.uv * 2.0 - 1.0, torch.ones(len(template.uv), 1)], 1)
    K = torch.tensor([[[TEXELS / 2, 0.0, TEXELS / 2], [0.0, TEXELS / 2, TEXELS / 2], [0.0, 0.0, 1.0]]])
    return rasterize(flat[None], triangles.int(), K, TEXELS, TEXELS).triangle_id[0].long()


def test_islands_keep_their_distance(template: FaceTemplate) -> None:
    triangles = charted(template)
    label = connected_parts(template.triangles, len(template.vertices))[triangles[:, 0]]
    seen = covered(template, triangles)
    at = torch.where(seen >= 0, label[seen.clamp(min=0)], -1)
    islands = [at == part for part in label.unique()]
    assert len(islands) == 6, "skin, two eyeballs, two rows of teeth, tongue"
    for island in islands:
        grown = torch.nn.functional.max_pool2d(island[None].float(), 2 * MARGIN + 1, 1, MARGIN)[0] > 0.0
        assert not (grown & (at >= 0) & ~island).any()


def test_the_skin_is_symmetric_upright_and_most_of_the_area_is_face() -> None:
    template = FaceTemplate.default(0)
    mirror = torch.from_numpy(load_assets()["mirror"].astype("int64"))
    head = (template.regions["skin"] + template.regions["mouth_bag"]) > 0.5
    head &= connected_parts(template.triangles, len(head)) == 0
    assert head.sum() > 3000
    assert ((template.uv[mirror] - 0.5) * FLIP + 0.5 - template.uv)[head].abs().max() < 1e-5
    marks = template.landmarks(torch.cat([template.uv, torch.zeros(len(head), 1)], 1))
    assert marks[45, 0] > marks[36, 0] + 0.1 and marks[27, 1] > marks[8, 1] + 0.2, "u to the left, v upwards"
    triangles = charted(template)
    size, face = areas(template, triangles), template.regions["face"][triangles].amin(1) > 0.5
    assert size[face].sum() / TEXELS**2 > 0.35


def test_the_face_is_little_distorted() -> None:
    template = FaceTemplate.default(0)
    triangles = charted(template)
    triangles = triangles[template.regions["face"][triangles].amin(1) > 0.9]
    solid = template.vertices[triangles].double()
    flat = template.uv[triangles].double()
    u, v = solid[:, 1] - solid[:, 0], solid[:, 2] - solid[:, 0]
    x = u.norm(dim=1)
    y = torch.linalg.cross(u, v).norm(dim=1) / x
    rest = torch.stack([torch.stack([x, (u * v).sum(1) / x], 1), torch.stack([torch.zeros_like(x), y], 1)], 1)
    drawn = torch.stack([flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0]], 2)
    stretch = torch.linalg.svdvals(drawn @ torch.linalg.inv(rest))  # [T, 2]
    weight = x * y
    ratio = (stretch[:, 0] / stretch[:, 1] * weight).sum() / weight.sum()
    assert ratio < 1.35
