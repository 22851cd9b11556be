"""Heads that are drawn over a frame, compared with the slow drawing of single photos."""

import numpy as np
import pytest
import torch
from PIL import Image

from fmlfast.data.crop import assumed_K
from fmlfast.model.lighting import ambient_factor
from fmlfast.reconstruction.head import Head
from fmlfast.reconstruction.track.draw import HeadDrawer, Kind, Layer, Poses, composite, paper
from fmlfast.rotation import FRONTAL, rotation_from_axis_angle
from fmlfast.template.face_template import FaceTemplate
from fmlfast.visualization.appearance import standard_light
from fmlfast.visualization.overlay import face_opacity, overlay
from fmlfast.visualization.panels import PAPER
from tests.helpers.videos import smooth

WIDTH, HEIGHT = 200, 160
TEMPLATE = FaceTemplate.default(0)
K = torch.from_numpy(assumed_K(WIDTH, HEIGHT)).float()


def head(texture: bool = False) -> Head:
    picture = smooth(np.random.default_rng(1), 64, 64) // 2 + 60 if texture else None
    return Head(TEMPLATE, TEMPLATE.vertices, TEMPLATE.colors, picture)


KINDS: tuple[Kind, ...] = ("overlay", "clay", "relit")


def pose(x: float = 0.0, y: float = 10.0, z: float = 480.0, turn: float = 0.3, jaw: float = 0.5) -> Poses:
    expression = torch.zeros(1, len(TEMPLATE.expressions))
    expression[0, TEMPLATE.expression_names.index("jawOpen")] = jaw
    rotation = torch.tensor(FRONTAL) @ rotation_from_axis_angle(torch.tensor([[0.0, turn, 0.1]]))
    return Poses(expression, rotation, torch.tensor([[x, y, z]]), 0.8 * standard_light()[None])


def drawn(where: Poses, texture: bool = False) -> Layer | None:
    """One frame, all kinds."""
    drawer = HeadDrawer(head(texture))
    (layer,) = drawer.draw(where, K, WIDTH, HEIGHT, KINDS)
    return layer


@pytest.fixture
def frame() -> np.ndarray:
    return smooth(np.random.default_rng(0), HEIGHT, WIDTH)


@pytest.mark.parametrize("texture", [False, True])
def test_the_overlay_is_that_of_single_photos(frame: np.ndarray, texture: bool) -> None:
    where, layer = pose(), drawn(pose(), texture)
    assert layer is not None
    found = composite(frame, [layer], "overlay")
    own = head(texture)
    camera = own.posed(where.expression[0]) @ where.rotation[0].mT + where.translation[0]
    opacity = face_opacity(TEMPLATE)
    wanted = overlay(frame, camera, TEMPLATE.triangles, own.albedo(), where.sh[0], ambient_factor(TEMPLATE), K, opacity)
    difference = np.abs(found.astype(int) - wanted)
    inside = np.zeros((HEIGHT, WIDTH), bool)
    window = layer.pictures["overlay"][..., 3].numpy() > 0.98
    inside[layer.top : layer.top + window.shape[0], layer.left : layer.left + window.shape[1]] = window
    assert inside.sum() > 2000
    assert difference[inside].mean() < 1.2 and np.quantile(difference[inside], 0.95) < 6
    assert (difference[~inside] > 30).any(-1).sum() < 60
    assert np.abs(frame.astype(int) - wanted)[inside].mean() > 20  # or the frame itself would pass


def test_nothing_outside_of_the_head_changes(frame: np.ndarray) -> None:
    layer = drawn(pose())
    assert layer is not None
    for kind in KINDS:
        found = composite(frame, [layer], kind)
        assert found.dtype == np.uint8 and found is not frame
        window = layer.pictures[kind]
        opacity = np.zeros((HEIGHT, WIDTH), np.float32)
        opacity[layer.top : layer.top + window.shape[0], layer.left : layer.left + window.shape[1]] = window[..., -1]
        np.testing.assert_allclose(found[opacity == 0].astype(int), frame[opacity == 0], atol=1)
        assert (opacity == 1).sum() > 2000


def test_the_face_fades_and_the_whole_head_is_clay() -> None:
    layer = drawn(pose())
    assert layer is not None
    over, clay, relit = (layer.pictures[kind] for kind in KINDS)
    assert 0.2 * clay[..., -1].sum() < over[..., -1].sum() < 0.9 * clay[..., -1].sum()
    assert clay.shape[-1] == 2  # grey and its coverage
    assert relit[..., :3].sum() > 0 and not torch.allclose(relit[..., :3], clay[..., :1].expand(*clay.shape[:2], 3))


@pytest.mark.parametrize(
    "where",
    [pose(z=-500.0), pose(z=20.0), pose(x=900.0), pose(x=-900.0), pose(y=900.0), pose(y=-900.0)],
    ids=["behind the camera", "around the camera", "right", "left", "below", "above"],
)
def test_a_head_out_of_sight_is_not_drawn(where: Poses) -> None:
    assert drawn(where) is None


def test_a_head_at_the_border_is_drawn_as_far_as_it_is_seen(frame: np.ndarray) -> None:
    large = torch.tensor([[float(K[0, 0]), 0, 150.0], [0, float(K[1, 1]), 130.0], [0, 0, 1]])
    cut = drawn(pose(x=-170.0))
    (whole,) = HeadDrawer(head()).draw(pose(x=-170.0), large, 300, 260, KINDS)
    assert cut is not None and whole is not None and cut.left == 0
    assert cut.left + cut.pictures["overlay"].shape[1] <= WIDTH and cut.top + cut.pictures["overlay"].shape[0] <= HEIGHT
    shift = 150 - float(K[0, 2]), 130 - float(K[1, 2])
    assert shift == (50.0, 50.0)
    rows, columns = cut.pictures["clay"].shape[:2]
    top, left = cut.top + 50 - whole.top, cut.left + 50 - whole.left
    part = whole.pictures["clay"][top : top + rows, left : left + columns]
    assert (part - cut.pictures["clay"])[:, 2:].abs().mean() < 0.01
    assert np.any(composite(frame, [cut], "clay") != frame)


def test_frames_drawn_together_are_those_drawn_alone(frame: np.ndarray) -> None:
    places = [pose(), pose(x=25.0, turn=-0.2), pose(z=-500.0), pose(z=520.0, jaw=0.0)]
    names = ("expression", "rotation", "translation", "sh")
    together = Poses(*(torch.cat([getattr(where, name) for where in places]) for name in names))
    drawer = HeadDrawer(head())
    choices: tuple[tuple[Kind, ...], ...] = (("overlay",), ("clay", "relit"))
    for kinds in choices:
        found = drawer.draw(together, K, WIDTH, HEIGHT, kinds)
        assert [layer is None for layer in found] == [False, False, True, False]
        for where, layer in zip(places, found, strict=True):
            (alone,) = drawer.draw(where, K, WIDTH, HEIGHT, kinds)
            if layer is None or alone is None:
                continue
            assert layer.depth == pytest.approx(alone.depth)
            for kind in kinds:
                difference = composite(frame, [layer], kind).astype(int) - composite(frame, [alone], kind)
                assert (np.abs(difference) > 2).mean() < 1e-3  # windows end elsewhere


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_nearer_heads_cover_farther_ones(frame: np.ndarray, order: tuple[int, int]) -> None:
    near, far = drawn(pose(z=450.0, x=30.0)), drawn(pose(z=700.0, x=-60.0))
    assert near is not None and far is not None and near.depth < far.depth
    layers = [(near, far)[i] for i in order]
    both, alone = composite(frame, layers, "relit"), composite(frame, [near], "relit")
    solid = np.zeros((HEIGHT, WIDTH), bool)
    window = near.pictures["relit"][..., 3].numpy() == 1
    solid[near.top : near.top + window.shape[0], near.left : near.left + window.shape[1]] = window
    np.testing.assert_array_equal(both[solid], alone[solid])
    assert (both != alone).any()


def test_colours_are_mixed_in_linear_light() -> None:
    half = torch.full((10, 10, 4), 0.5)
    layer = Layer(0, 0, {"overlay": half}, 1.0)
    black = np.zeros((10, 10, 3), np.uint8)
    assert (composite(black, [layer], "overlay") == 188).all()  # sRGB of 0.5
    assert np.abs(composite(np.full_like(black, 255), [layer], "overlay").astype(int) - 255).max() == 0
    exact = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, 2)
    clear = Layer(0, 0, {"overlay": torch.zeros(256, 1, 4)}, 1.0)
    np.testing.assert_array_equal(composite(exact, [clear], "overlay"), exact)


def test_paper_is_empty() -> None:
    page = paper(7, 5)
    assert page.shape == (5, 7, 3) and (page == np.array(PAPER)).all() and page.dtype == np.uint8
    Image.fromarray(page)
