"""The shipped face template: mesh, frame, landmarks, masks, expressions."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from fmlfast.template.assets import FILE, load_assets
from fmlfast.template.face_template import FaceTemplate
from tests.helpers.mesh_parts import connected_parts

MIRROR = [
    *range(16, -1, -1),
    *range(26, 16, -1),
    27,
    28,
    29,
    30,
    35,
    34,
    33,
    32,
    31,
    45,
    44,
    43,
    42,
    47,
    46,
    39,
    38,
    37,
    36,
] + [41, 40, 54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
FLIP = torch.tensor([-1.0, 1.0, 1.0])


@pytest.fixture(scope="module", params=[0, 1, 2])
def template(request: pytest.FixtureRequest) -> FaceTemplate:
    return FaceTemplate.default(request.param)


@pytest.fixture(scope="module")
def base() -> FaceTemplate:
    return FaceTemplate.default(0)


def expression(template: FaceTemplate, **amounts: float) -> Tensor:
    """Vertices with some expressions."""
    moved = template.vertices.clone()
    for name, amount in amounts.items():
        moved += amount * template.expressions[template.expression_names.index(name)]
    return moved


def test_the_file_is_small_and_needs_no_scipy() -> None:
    assert FILE.stat().st_size <= 6_000_000
    code = (
        "import sys; sys.modules['scipy'] = None; from fmlfast.template.face_template import FaceTemplate;"
        "print(FaceTemplate.default(1).fingerprint)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == FaceTemplate.default(1).fingerprint


def test_levels_are_subdivisions_of_the_base(template: FaceTemplate, base: FaceTemplate) -> None:
    assert len(template.triangles) == len(base.triangles) * 4**template.level
    assert torch.allclose(template.subdivide(base.vertices), template.vertices, atol=1e-4)
    assert template.fingerprint == base.fingerprint and len(base.fingerprint) == 16
    assert FaceTemplate.default(template.level) is template, "cached"
    assert template.triangles.dtype == torch.int32 and template.skin_indices.dtype == torch.int32
    for tensor in (template.vertices, template.colors, template.expressions, template.skin_weights):
        assert tensor.dtype == torch.float32 and torch.isfinite(tensor).all()


def test_subdivide_takes_batches_and_gives_gradients() -> None:
    template, base = FaceTemplate.default(1), FaceTemplate.default(0)
    field = torch.randn(2, 3, len(base.vertices), 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    fine = template.subdivide(field)
    assert fine.shape == (2, 3, len(template.vertices), 2)
    assert torch.allclose(fine[1, 2], template.subdivide(field[1, 2]), atol=1e-6)
    (gradient,) = torch.autograd.grad(fine.sum(), field)
    assert torch.allclose(gradient[0, 0], gradient[1, 1]) and gradient.abs().min() > 0.1
    assert torch.equal(base.subdivide(field), field)


def test_wrong_arguments_are_named(base: FaceTemplate) -> None:
    with pytest.raises(ValueError, match="level must be 0, 1 or 2"):
        FaceTemplate.default(3)
    with pytest.raises(ValueError, match=f"must have {len(base.vertices)} vertices, not 7"):
        FaceTemplate.default(1).subdivide(torch.zeros(7, 3))
    with pytest.raises(ValueError, match="vertices must be"):
        base.landmarks(torch.zeros(1, 7, 3))


def test_the_frame(template: FaceTemplate) -> None:
    marks = template.landmarks(template.vertices)
    assert marks[[36, 39, 42, 45, 30, 48, 54]].mean(0).norm() < (1e-4 if template.level == 0 else 0.1)
    assert marks[45, 0] > 30.0 and marks[36, 0] < -30.0, "+x is the subject's left"
    assert marks[8, 1] < marks[57, 1] < marks[33, 1] < marks[27, 1] < marks[19, 1], "+y is up"
    assert marks[30, 2] > template.vertices[:, 2].max() - 2.0, "+z leaves the face"
    assert 80.0 < (marks[45] - marks[36]).norm() < 100.0, "mm"


def test_the_mesh_is_a_surface_with_outward_triangles(template: FaceTemplate) -> None:
    triangles = template.triangles.long()
    sides = torch.cat([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    keys = sides[:, 0] * len(template.vertices) + sides[:, 1]
    assert len(keys.unique()) == len(keys), "neighbours agree in orientation, no edge has three triangles"
    border = ~torch.isin(keys, sides[:, 1] * len(template.vertices) + sides[:, 0])
    degree = torch.bincount(sides[border].flatten(), minlength=len(template.vertices))
    assert set(degree.unique().tolist()) == {0, 2}, "the border has no corner where it touches itself"
    a, b, c = (template.vertices[triangles[:, k]] for k in range(3))
    normal = torch.linalg.cross(b - a, c - a)
    assert normal.norm(dim=1).min() > 0.0
    eyes = template.regions["eyes"][triangles].min(dim=1).values > 0.99
    for side in (-1.0, 1.0):
        ball = eyes & (a[:, 0].sign() == side)
        center = template.vertices[triangles[ball].unique()].mean(0)
        outward = ((a[ball] - center + torch.tensor([0.0, 0.0, 5.0])) * normal[ball]).sum(1)
        assert (outward > 0.0).float().mean() > 0.99
    facing = template.regions["face"][triangles].min(dim=1).values > 0.99
    assert (normal[facing, 2] > 0.0).float().mean() > 0.9


def test_the_base_mesh_is_symmetric(base: FaceTemplate) -> None:
    mirror = torch.from_numpy(load_assets()["mirror"].astype("int64"))
    assert torch.equal(mirror[mirror], torch.arange(len(mirror)))
    assert (base.vertices[mirror] * FLIP - base.vertices).abs().max() < 1e-3
    assert (base.colors[mirror] - base.colors).abs().max() < 1e-2
    marks = base.landmarks(base.vertices)
    assert (marks[MIRROR] * FLIP - marks).abs().max() < 1e-2
    names = list(base.expression_names)
    for k, name in enumerate(names):
        swapped = name.replace("Left", "?").replace("Right", "Left").replace("?", "Right")
        other = base.expressions[names.index(swapped)]
        assert (other[mirror] * FLIP - base.expressions[k]).abs().max() < 1e-2, name


def test_mirror_partners_lie_on_the_other_side(base: FaceTemplate) -> None:
    mirror = base.mirror
    assert torch.equal(mirror[mirror], torch.arange(len(base.vertices)))
    assert (base.vertices[mirror] * torch.tensor([-1.0, 1.0, 1.0]) - base.vertices).abs().max() < 0.5  # mm
    assert len(base.landmark_part().mirror) == 0


def test_landmarks_stay_where_they_are_at_every_level(template: FaceTemplate, base: FaceTemplate) -> None:
    assert torch.equal(template.landmark_triangles // 4**template.level, base.landmark_triangles)
    assert torch.allclose(template.landmark_barycentrics.sum(1), torch.ones(68), atol=1e-5)
    gap = (template.landmarks(template.vertices) - base.landmarks(base.vertices)).norm(dim=1)
    assert gap.max() < 2.0 and gap.mean() < 0.5, "mm; subdivision smooths a little"
    batch = torch.stack([template.vertices, 2.0 * template.vertices])[:, None]
    marks = template.landmarks(batch)
    assert marks.shape == (2, 1, 68, 3) and torch.allclose(marks[1], 2.0 * marks[0])


def test_jaw_strips_start_at_the_landmark_and_run_over_the_skin(template: FaceTemplate) -> None:
    corners = template.triangles.long()[template.jaw_triangles]  # [17, C, 3]
    strip = (template.vertices[corners] * template.jaw_barycentrics[..., None]).sum(dim=2)
    marks = template.landmarks(template.vertices)[:17]
    assert (strip[:, 0] - marks).norm(dim=1).max() < 0.1
    assert template.regions["skin"][corners].min() > 0.9 and template.regions["ears"][corners].max() < 0.9
    for j in (0, 1, 2, 14, 15, 16):
        assert strip[j, -1, 2] > strip[j, 0, 2] + 10.0, "over the cheek, towards the nose"
        assert (strip[j, :, 1] - strip[j, 0, 1]).abs().max() < 3.0, "at one height"
    assert strip[8, :, 1].max() > strip[8, 0, 1] + 8.0 and strip[8, :, 2].min() < strip[8, 0, 2] - 10.0, "up and under"


def test_masks(template: FaceTemplate) -> None:
    for name in ("skin", "lips", "brows", "eyes", "ears", "neck", "mouth_bag", "teeth", "tongue", "lashes", "face"):
        mask = template.regions[name]
        assert mask.shape == (len(template.vertices),) and mask.min() >= 0.0 and mask.max() <= 1.0 + 1e-5
        assert mask.max() > 0.7, name
    face = template.regions["face"] > 0.5
    for name in ("eyes", "ears", "neck", "mouth_bag", "teeth", "tongue", "lashes"):
        assert template.regions[name][face].max() < 0.75, name

    def at_landmarks(name: str) -> Tensor:
        return template.landmarks(template.regions[name][:, None].expand(-1, 3))[:, 0]

    lips = at_landmarks("lips")
    assert lips[60:].mean() > 0.6 and lips[48:60].mean() > 0.3 and lips[:48].max() < 0.1
    assert at_landmarks("face")[17:60].min() > 0.4
    mean_color = {name: template.colors[template.regions[name] > 0.99].mean() for name in template.regions}
    assert max(mean_color["mouth_bag"], mean_color["tongue"], mean_color["lashes"]) < 0.1 < mean_color["face"]
    assert template.colors[template.regions["teeth"] > 0.99].max() > 1.2 * mean_color["face"]


def test_expressions_do_what_their_names_say(template: FaceTemplate) -> None:
    assert len(template.expression_names) == 51 == len(set(template.expression_names))

    def change(**amounts: float) -> Tensor:
        return template.landmarks(expression(template, **amounts)) - template.landmarks(template.vertices)

    opened = change(jawOpen=1.0)
    assert opened[8, 1] < -17.0 and opened[66, 1] < -15.0 and opened[62].norm() < 3.0
    smile = change(mouthSmileLeft=1.0)
    assert smile[54, 1] > 3.0 and smile[54, 0] > 2.0 and smile[48].norm() < smile[54].norm() / 3.0
    blink = template.landmarks(expression(template, eyeBlinkRight=1.0))
    assert -4.0 < (blink[[37, 38], 1] - blink[[41, 40], 1]).max() < 0.5, "the lids meet, the upper one before the lower"
    assert change(browInnerUp=1.0)[[21, 22], 1].min() > 2.0
    pupil = template.regions["pupil"] * (template.vertices[:, 0] > 0)
    looked = expression(template, eyeLookOutLeft=1.0) - template.vertices
    assert (looked[:, 0] * pupil).sum() / pupil.sum() > 3.0, "the eyeball turns with eyeLookOut"


def test_the_mouth_is_closed_behind_the_lips(base: FaceTemplate) -> None:
    """The bag is sewn to the lips: the only border of the head's surface is the outer cut."""
    label = connected_parts(base.triangles, len(base.vertices))
    skin = base.regions["skin"] > 0.5
    bag = (base.regions["mouth_bag"] > 0.5) & (label == label[skin][0])  # without gums
    assert len(label[skin].unique()) == 1 and bag.sum() > 150
    triangles = base.triangles.long()
    sides = torch.cat([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]).sort(dim=1).values
    _, count = torch.unique(sides, dim=0, return_counts=True)
    border = torch.unique(sides, dim=0)[count == 1].flatten().unique()
    assert not bag[border].any()
    front = [name for name in base.expression_names if name != "mouthClose"]  # it goes only with an open jaw
    lips = base.regions["lips"] > 0.5
    for name in front:
        shape = expression(base, **{name: 1.0})
        assert shape[bag, 2].max() < shape[lips, 2].max(), name
