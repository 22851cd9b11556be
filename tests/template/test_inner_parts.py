"""What the shipped template has behind lips and lids: teeth, tongue, lashes, eyeballs that turn, lids that close."""

import numpy as np
import pytest
import torch
from torch import Tensor

from fmlfast.data.synthetic.people import PeopleSampler
from fmlfast.renderer import rasterize
from fmlfast.template.face_template import FaceTemplate
from tests.helpers.mesh_parts import connected_parts

PIXELS, DISTANCE = 192, 600.0


@pytest.fixture(scope="module")
def base() -> FaceTemplate:
    return FaceTemplate.default(0)


@pytest.fixture(scope="module")
def fine() -> FaceTemplate:
    return FaceTemplate.default(1)


@pytest.fixture(scope="module")
def faces(fine: FaceTemplate) -> list[Tensor]:
    """The mean and some people."""
    sampler = PeopleSampler()
    people = [sampler.sample(np.random.default_rng([4, seed])).vertices for seed in range(5)]
    return [fine.vertices, *(fine.subdivide(torch.from_numpy(person)) for person in people)]


def moved(template: FaceTemplate, vertices: Tensor, **amounts: float) -> Tensor:
    """Adds expressions; a name without its side stands for both sides."""
    for name, amount in amounts.items():
        sides = [name] if name in template.expression_names else [name + "Left", name + "Right"]
        for side in sides:
            vertices = vertices + amount * template.expressions[template.expression_names.index(side)]
    return vertices


def view(template: FaceTemplate, vertices: Tensor, shown: Tensor, marks: list[int], span: float, yaw: float) -> Tensor:
    """Finds the triangle seen at each pixel [P, P], -1 where none is, `span` mm around some landmarks."""
    ids = shown.nonzero()[:, 0]
    cosine, sine = np.cos(np.radians(yaw)), np.sin(np.radians(yaw))
    turn = torch.tensor([[cosine, 0.0, sine], [0.0, -1.0, 0.0], [sine, 0.0, -cosine]], dtype=torch.float32)
    around = (vertices - template.landmarks(vertices)[marks].mean(0)) @ turn.T + torch.tensor([0.0, 0.0, DISTANCE])
    focal = DISTANCE * PIXELS / span
    K = torch.tensor([[[focal, 0.0, PIXELS / 2], [0.0, focal, PIXELS / 2], [0.0, 0.0, 1.0]]])
    seen = rasterize(around[None].contiguous(), template.triangles[ids], K, PIXELS, PIXELS).triangle_id[0].long()
    return torch.where(seen >= 0, ids[seen.clamp(min=0)], seen)


def touching(template: FaceTemplate, *names: str) -> Tensor:
    """Marks triangles [T] with a corner in one of the regions."""
    mask = torch.stack([template.regions[name] for name in names]).amax(0)
    return mask[template.triangles.long()].amax(1) > 0.01


def rows_of_teeth(template: FaceTemplate) -> tuple[Tensor, Tensor]:
    """Marks the vertices [V] of the upper and the lower row with their gums."""
    label = connected_parts(template.triangles, len(template.vertices))
    rows = [label == k for k in label[template.regions["teeth"] > 0.5].unique()]
    assert len(rows) == 2
    rows.sort(key=lambda row: -float(template.vertices[row, 1].mean()))
    return rows[0], rows[1]


def test_lower_teeth_and_tongue_follow_the_jaw_and_upper_teeth_do_not(base: FaceTemplate) -> None:
    upper, lower = rows_of_teeth(base)
    tongue = base.regions["tongue"] > 0.5
    for name, axis, sign in (("jawOpen", 1, -1.0), ("jawLeft", 0, 1.0), ("jawRight", 0, -1.0), ("jawForward", 2, 1.0)):
        change = base.expressions[base.expression_names.index(name)]
        chin = base.landmarks(change)[8, axis]
        for part in (lower, tongue):
            share = change[part, axis].mean() / chin
            assert change[part, axis].mean() * sign > 3.0 and 0.5 < share < 1.5, name
        assert change[upper].abs().max() < 1e-3, name


def test_each_row_of_teeth_moves_as_one_piece_with_the_mouth(base: FaceTemplate) -> None:
    for row in rows_of_teeth(base):
        assert (base.skin_indices[row] == base.skin_indices[row][0]).all()
        nodes = base.nodes[base.skin_indices[row][0].long()]
        center = (base.skin_weights[row][0][:, None] * nodes).sum(0)
        assert (center - base.landmarks(base.vertices)[48:68].mean(0)).norm() < 30.0


def test_lips_cover_the_teeth_until_they_part(fine: FaceTemplate, faces: list[Tensor]) -> None:
    everything = torch.ones(len(fine.triangles), dtype=torch.bool)
    teeth = touching(fine, "teeth")
    for face in faces:
        seen = [
            int(teeth[ids[ids >= 0]].sum())
            for ids in (
                view(fine, moved(fine, face, **amounts), everything, [48, 54], 90.0, 0.0)
                for amounts in ({}, {"mouthUpperUp": 1.0, "mouthLowerDown": 1.0})
            )
        ]
        assert seen[0] < 0.06 * seen[1] and seen[1] > 300, seen


@pytest.mark.parametrize(
    "amounts",
    [
        {},
        {"mouthSmile": 0.8, "mouthUpperUp": 0.5, "jawOpen": 0.1},
        {"jawOpen": 0.5},
        {"jawOpen": 1.0},
        {"mouthFunnel": 1.0},
        {"mouthPress": 1.0},
        {"mouthRollUpper": 1.0, "mouthRollLower": 1.0},
        {"jawForward": 1.0},
    ],
)
def test_teeth_and_tongue_do_not_pierce_the_lips(
    fine: FaceTemplate, faces: list[Tensor], amounts: dict[str, float]
) -> None:
    """Where a tooth is seen, the inside of the mouth is seen without teeth."""
    assert not any(pierced(fine, moved(fine, face, **amounts)) for face in faces[:3])


def test_a_tooth_before_the_lips_counts_as_piercing(fine: FaceTemplate) -> None:
    pushed = fine.vertices + 14.0 * fine.regions["teeth"][:, None] * torch.tensor([0.0, 0.0, 1.0])
    assert pierced(fine, pushed) > 100


def pierced(template: FaceTemplate, vertices: Tensor) -> int:
    """Counts pixels of teeth or tongue before the lips."""
    label = connected_parts(template.triangles, len(template.vertices))
    parts = label[(template.regions["teeth"] + template.regions["tongue"]) > 0.5].unique()
    inner = torch.isin(label[template.triangles.long()[:, 0]], parts)
    everything = torch.ones_like(inner)
    bag = touching(template, "mouth_bag") & ~inner
    count = 0
    for yaw in (0.0, 35.0):
        whole, empty = (
            view(template, vertices, shown, [48, 54], 90.0, yaw) for shown in (everything, everything & ~inner)
        )
        count += int(((whole >= 0) & inner[whole.clamp(min=0)] & (empty >= 0) & ~bag[empty.clamp(min=0)]).sum())
    return count


@pytest.mark.parametrize("yaw", [0.0, 30.0, -30.0])
def test_a_blink_hides_the_eyeballs(fine: FaceTemplate, faces: list[Tensor], yaw: float) -> None:
    eyes, shown = touching(fine, "eyes"), ~touching(fine, "lashes")
    for face in faces:
        seen = [
            int(eyes[ids[ids >= 0]].sum())
            for ids in (
                view(fine, moved(fine, face, eyeBlink=amount), shown, [*range(36, 48)], 130.0, yaw)
                for amount in (0.0, 0.5, 1.0)
            )
        ]
        assert seen[0] > 300 and seen[2] <= 0.01 * seen[0] and seen[1] < 0.6 * seen[0], seen


def test_lashes_stay_on_the_lids(base: FaceTemplate) -> None:
    lashes = base.regions["lashes"] > 0.5
    hairs = base.triangles.long()[lashes[base.triangles.long()].all(1)]  # [L, 3]
    assert hairs.numel() == int(lashes.sum()), "each hair is a triangle of its own"
    lids = (base.regions["skin"] > 0.5).nonzero()[:, 0]
    for name, amount in (
        ("eyeBlink", 0.0),
        ("eyeBlink", 0.5),
        ("eyeBlink", 1.0),
        ("eyeWide", 1.0),
        ("eyeLookDown", 1.0),
    ):
        shape = moved(base, base.vertices, **{name: amount})
        gap = torch.cdist(shape[hairs.flatten()], shape[lids]).amin(1).view(-1, 3).amin(1)
        assert gap.max() < 3.0, (name, amount)
    rows = base.skin_indices[hairs]
    assert (rows == rows[:, :1]).all(), "a hair is carried as one piece"


@pytest.mark.parametrize("side", ["Left", "Right"])
def test_gaze_turns_the_eyeball_the_way_its_name_says(base: FaceTemplate, side: str) -> None:
    sign = 1.0 if side == "Left" else -1.0
    ball = (base.regions["eyes"] > 0.5) & (base.vertices[:, 0].sign() == sign)
    iris = ball & (base.regions["iris"] > 0.5)
    center, radius = sphere(base.vertices[ball])
    ways = {"Out": [sign, 0.0], "In": [-sign, 0.0], "Up": [0.0, 1.0], "Down": [0.0, -1.0]}
    for name, way in ways.items():
        for amount in (0.5, 1.0):
            shape = moved(base, base.vertices, **{f"eyeLook{name}{side}": amount})
            gaze = torch.nn.functional.normalize(shape[iris].mean(0) - center, dim=0)
            start = torch.nn.functional.normalize(base.vertices[iris].mean(0) - center, dim=0)
            turned = torch.rad2deg(torch.acos((gaze * start).sum()))
            assert abs(turned - 30.0 * amount) < 2.0 and (gaze - start)[:2] @ torch.tensor(way) > 0.2, name
            other = ~ball & (base.regions["eyes"] > 0.5)
            assert torch.equal(shape[other], base.vertices[other])
    front = ball & (base.vertices[:, 2] > center[2] + 0.5 * radius)
    for amounts in ({"Up": 0.5}, {"Out": 0.7, "Up": 0.7}, {"In": 0.7, "Down": 0.7}):
        shape = moved(base, base.vertices, **{f"eyeLook{name}{side}": amount for name, amount in amounts.items()})
        ratio = (shape[front] - center).norm(dim=1) / (base.vertices[front] - center).norm(dim=1)
        assert (ratio - 1.0).abs().max() < 0.08, "what is seen stays a ball"


def sphere(points: Tensor) -> tuple[Tensor, Tensor]:
    """Fits centre [3] and radius."""
    system = torch.cat([2.0 * points, torch.ones(len(points), 1)], 1).double()
    answer = torch.linalg.lstsq(system, points.double().square().sum(1, keepdim=True)).solution[:, 0]
    return answer[:3].float(), (answer[3] + answer[:3] @ answer[:3]).sqrt().float()
