"""Lens distortion: OpenCV's formulas and OpenCV itself, what lies beyond them, gradients, the inverse, pictures."""

import math

import pytest
import torch
from torch import Tensor

from fmlfast.camera import distort, project, undistort
from fmlfast.common.distortion import LensModel
from fmlfast.renderer import render
from tests.helpers.render_scenes import blob, front

LENSES: dict[str, tuple[LensModel, list[float]]] = {
    "barrel": ("opencv", [-0.28, 0.09, 0.0007, -0.0011]),
    "pincushion": ("opencv", [0.21, -0.05, -0.002, 0.001, 0.011]),
    "rational": ("opencv", [0.31, -0.12, 0.0004, 0.0016, 0.02, 0.6, -0.2, 0.05]),
    "fisheye": ("fisheye", [-0.021, 0.013, -0.009, 0.0014]),
}
lenses = pytest.mark.parametrize("lens", LENSES)
K = torch.tensor([[520.0, 0, 311.5], [0, 498, 244.25], [0, 0, 1]], dtype=torch.float64)


def points_in_front(seed: int, count: int, radius: float = 0.7) -> Tensor:  # [count, 3] float64
    g = torch.Generator().manual_seed(seed)
    rays = (torch.rand(count, 2, dtype=torch.float64, generator=g) * 2 - 1) * radius / math.sqrt(2)
    depth = 50 + 900 * torch.rand(count, 1, dtype=torch.float64, generator=g)
    return torch.cat([rays * depth, depth], 1)


def coefficients(lens: str, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(LENSES[lens][1], dtype=dtype)


def documented(x: float, y: float, model: LensModel, k: list[float]) -> tuple[float, float]:
    """The formulas of OpenCV's pages on calib3d and calib3d::fisheye, a number at a time."""
    r = math.hypot(x, y)
    if model == "fisheye":
        t = math.atan(r)
        bent = t * (1 + k[0] * t**2 + k[1] * t**4 + k[2] * t**6 + k[3] * t**8)
        return (bent / r * x, bent / r * y) if r else (0.0, 0.0)
    k1, k2, p1, p2, k3, k4, k5, k6 = (k + [0.0] * 4)[:8]
    radial = (1 + k1 * r**2 + k2 * r**4 + k3 * r**6) / (1 + k4 * r**2 + k5 * r**4 + k6 * r**6)
    return (
        x * radial + 2 * p1 * x * y + p2 * (r**2 + 2 * x**2),
        y * radial + p1 * (r**2 + 2 * y**2) + 2 * p2 * x * y,
    )


@lenses
def test_follows_the_formulas(lens: str):
    points = points_in_front(1, 63)
    points[7, :2] = 0
    got = distort(points, coefficients(lens), LENSES[lens][0])
    assert torch.equal(got[:, 2], points[:, 2])
    for (X, Y, Z), found in zip(points.tolist(), (got[:, :2] / got[:, 2:]).tolist(), strict=True):
        assert found == pytest.approx(documented(X / Z, Y / Z, *LENSES[lens]), rel=1e-12, abs=1e-15)
    single = distort(points.float(), coefficients(lens, torch.float32), LENSES[lens][0])
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), got, rtol=2e-6, atol=1e-4)  # of up to 1000


@lenses
def test_projects_as_opencv_does(lens: str):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is no dependency")
    points, (model, k) = points_in_front(2, 500), LENSES[lens]
    zero, numbers = torch.zeros(3, dtype=torch.float64).numpy(), torch.tensor(k, dtype=torch.float64).numpy()
    if model == "fisheye":
        pixels, _ = cv2.fisheye.projectPoints(points[:, None].numpy(), zero, zero, K.numpy(), numbers)
    else:
        pixels, _ = cv2.projectPoints(points.numpy(), zero, zero, K.numpy(), numbers)
    got = project(distort(points, coefficients(lens), model), K)
    torch.testing.assert_close(
        got,
        torch.from_numpy(pixels)[:, 0] if model == "opencv" else torch.from_numpy(pixels).view(-1, 2),
        rtol=0,
        atol=1e-8,
    )
    assert (got - project(points, K)).norm(dim=1).max() > 10


@lenses
def test_each_frame_may_have_a_lens_of_its_own(lens: str):
    model, points = LENSES[lens][0], points_in_front(3, 3 * 21).view(3, 21, 3)
    many = coefficients(lens) * torch.tensor([[1.0], [0.5], [-0.2]], dtype=torch.float64)
    together = distort(points, many, model)
    for f in range(3):
        torch.testing.assert_close(together[f], distort(points[f], many[f], model), rtol=1e-14, atol=0)
        torch.testing.assert_close(distort(points[0], many, model)[f], distort(points[0], many[f], model))
    assert (together[0] - distort(points[0], many[1], model)).abs().max() > 0.1


FOLDING: dict[str, tuple[LensModel, list[float], float]] = {
    "barrel": ("opencv", [-0.3, 0.0, 0.0, 0.0], math.sqrt(1 / 0.9)),  # where 1 - 3 * 0.3 r^2 = 0
    "fifth order": ("opencv", [0.2, -0.1, 0.0, 0.0], math.sqrt((0.6 + math.sqrt(0.36 + 2)) / 1)),
    "pole": ("opencv", [0.0, 0.0, 0.0, 0.0, 0.0, -0.25, 0.0, 0.0], 2.0),  # where 1 - 0.25 r^2 = 0
    "fisheye": ("fisheye", [-0.2, 0.0, 0.0, 0.0], math.tan(math.sqrt(1 / 0.6))),
    "none": ("opencv", [0.0, 0.0, 0.0, 0.0], math.inf),
}


@pytest.mark.parametrize("name", [name for name in FOLDING if name != "none"])
def test_the_model_holds_up_to_where_it_turns_back(name: str):
    """The radius is found to 2e-6: a grid of 2048 from 0.01 to 100, and one of 2048 in a cell of it."""
    model, k, limit = FOLDING[name]
    lens = torch.tensor(k, dtype=torch.float64)
    for r in ((1 - 1e-3) * limit, (1 - 1e-5) * limit):
        got = distort(torch.tensor([[r, 0, 1.0]], dtype=torch.float64), lens, model)
        assert float(got[0, 0]) == pytest.approx(documented(r, 0.0, model, k)[0], rel=1e-9)


@pytest.mark.parametrize("name", FOLDING)
def test_nothing_folds_back_into_the_picture(name: str):
    """Along rays ever further from the axis, through those at right angles to it, to those behind the camera."""
    model, k, limit = FOLDING[name]
    lens = torch.tensor(k, dtype=torch.float64)
    angle = torch.linspace(0.01, 3.1, 1201, dtype=torch.float64)
    for turn in (0.0, 1.1, 4.0):
        direction = torch.tensor([math.cos(turn), math.sin(turn)], dtype=torch.float64)
        points = torch.cat([angle.sin()[:, None] * direction, angle.cos()[:, None]], 1)
        got = distort(points, lens, model)
        along = got[:, :2] @ direction
        assert (along > 0).all() and torch.allclose(along[:, None] * direction, got[:, :2], atol=1e-12)
        assert (torch.atan2(along, got[:, 2]).diff() > 0).all()
        steps = (along[1:] - along[:-1]).abs()
        assert name == "pole" or steps.max() < 0.05  # no jump, neither at the limit nor at right angles
        radius = angle.tan()
        formula = torch.tensor([documented(r, 0.0, model, k)[0] for r in radius.tolist()])
        inside = (radius > 0) & (radius < 0.999 * limit) & (radius < 100)
        torch.testing.assert_close((along / got[:, 2])[inside], formula[inside].double(), rtol=1e-5, atol=0)
        if limit < 100:
            beyond = (radius > 1.001 * limit) | (radius < 0)
            factor = along[beyond] / points[beyond, :2].norm(dim=1)
            torch.testing.assert_close(factor, factor[:1].expand_as(factor))


def test_tangential_distortion_does_not_fold_either():
    """Along (p2, p1) turned round it takes most away: r - 3 |p| r^2 comes back at 1 / (6 |p|)."""
    p1, p2 = 0.03, -0.04
    lens = torch.tensor([0.0, 0.0, p1, p2], dtype=torch.float64)
    rays = torch.linspace(0.1, 20, 400, dtype=torch.float64)[:, None] * torch.tensor([0.8, -0.6], dtype=torch.float64)
    points = torch.cat([rays, torch.ones(400, 1, dtype=torch.float64)], 1)
    along = distort(points, lens)[:, :2] @ torch.tensor([0.8, -0.6], dtype=torch.float64)
    assert (along.diff() > 0).all()
    inside = rays.norm(dim=1) < 0.999 / 0.3
    formula = torch.tensor([documented(x, y, "opencv", lens.tolist()) for x, y in rays.tolist()]).double()
    torch.testing.assert_close(distort(points, lens)[inside, :2], formula[inside], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(along[~inside] / along[~inside][0], rays.norm(dim=1)[~inside] / rays[~inside][0].norm())


@lenses
def test_gradients(lens: str):
    model = LENSES[lens][0]
    points = points_in_front(4, 5).requires_grad_()
    leaf = coefficients(lens).requires_grad_()
    assert torch.autograd.gradcheck(lambda p, k: distort(p, k, model), (points, leaf))
    assert torch.autograd.gradcheck(lambda p, k: undistort(p, k, model), (points, leaf))


@lenses
def test_gradients_are_finite_on_the_axis_and_behind(lens: str):
    points = torch.tensor([[0.0, 0, 5], [0, 0, -5], [0, 0, 0], [3, 1, 0], [3, 1, -2], [900, 0, 1]]).requires_grad_()
    leaf = coefficients(lens, torch.float32).requires_grad_()
    got = distort(points, leaf, LENSES[lens][0])
    assert torch.equal(got[:3], points[:3])
    for gradient in torch.autograd.grad(got.sum(), (points, leaf)):
        assert gradient.isfinite().all()
    torch.testing.assert_close(
        torch.autograd.grad(distort(points, leaf, LENSES[lens][0])[0, 0], points)[0][0, 0], torch.tensor(1.0)
    )


@lenses
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_undistort_inverts(lens: str, dtype: torch.dtype):
    model, points = LENSES[lens][0], points_in_front(5, 500, 1.2).to(dtype)
    bent = distort(points, coefficients(lens, dtype), model)
    back = undistort(bent, coefficients(lens, dtype), model)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(back / points[:, 2:], points / points[:, 2:], rtol=0, atol=tolerance)
    assert ((bent - points) / points[:, 2:]).abs().max() > 0.02


@pytest.mark.parametrize("name", ["barrel", "fisheye"])
def test_undistort_inverts_where_the_model_is_continued(name: str):
    model, k, limit = FOLDING[name]
    lens, points = torch.tensor(k, dtype=torch.float64), points_in_front(7, 63, 2.0 * limit)
    assert 5 < int((points[:, :2].norm(dim=1) / points[:, 2] > limit).sum()) < 63
    back = undistort(distort(points, lens, model), lens, model)
    torch.testing.assert_close(back / points[:, 2:], points / points[:, 2:], rtol=0, atol=1e-9)


@lenses
def test_undistort_is_that_of_opencv(lens: str):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is no dependency")
    (model, k), points = LENSES[lens], points_in_front(6, 63)
    numbers = torch.tensor(k, dtype=torch.float64).numpy()
    pixels = project(points, K)[:, None].numpy()
    function = cv2.fisheye.undistortPoints if model == "fisheye" else cv2.undistortPoints
    criteria = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 200, 1e-12)
    options = {"criteria": criteria} if model == "fisheye" else {"criteria": criteria}
    expected = torch.from_numpy(function(pixels, K.numpy(), numbers, **options))[:, 0]
    got = undistort(points, coefficients(lens), model)
    torch.testing.assert_close(got[:, :2] / got[:, 2:], expected, rtol=0, atol=1e-7)


def test_bad_input_is_named():
    points, good = torch.zeros(2, 5, 3), torch.zeros(4)
    for name, arguments in {
        "points": (torch.zeros(2, 5, 2), good),
        "coefficients must be .*float32": (points, good.double()),
        "coefficients of model 'opencv' must be 4 or 5 or 8, not 6": (points, torch.zeros(6)),
        "coefficients of model 'fisheye' must be 4, not 5": (points, torch.zeros(5), "fisheye"),
        "coefficients must go with": (points, torch.zeros(3, 4)),
        "coefficients must be finite": (points, good / 0),
        "coefficients must be a tensor": (points, [0.1, 0, 0, 0]),
        "model must be 'opencv' or 'fisheye'": (points, good, "brown"),
    }.items():
        for function in (distort, undistort):
            with pytest.raises(ValueError, match=f"^{name}"):
                function(*arguments)  # type: ignore[arg-type]
    assert distort(torch.zeros(2, 0, 3), good).shape == undistort(torch.zeros(0, 7, 3), good).shape[:0] + (2, 0, 3)


@lenses
def test_render_draws_what_the_lens_sees(lens: str):
    """A dense mesh bent by hand and drawn without a lens is the same picture, gradients to the lens are there."""
    model = LENSES[lens][0]
    vertices, triangles = blob()
    viewmats, Ks = front(31, 41, 150.0)
    colors = torch.rand(1, 5, 3, generator=torch.Generator().manual_seed(0))
    leaf = coefficients(lens, torch.float32).requires_grad_()
    arguments = triangles, colors, viewmats, Ks, 31, 41
    got = render(vertices, *arguments, distortion=leaf, lens=model)
    local = vertices @ viewmats[:, :3, :3].transpose(1, 2) + viewmats[:, None, :3, 3]
    bent = distort(local, leaf.detach(), model)
    identity = torch.eye(4)[None]
    expected = render(bent, triangles, colors, identity, Ks, 31, 41)
    torch.testing.assert_close(got.image, expected.image, rtol=0, atol=1e-3)
    assert (got.image - render(vertices, *arguments).image).abs().max() > 0.05
    (gradient,) = torch.autograd.grad(got.image.square().sum(), leaf)
    assert gradient.isfinite().all() and gradient.abs().max() > 0
    each = render(vertices, *arguments, distortion=leaf[None], lens=model)
    assert torch.equal(each.image, got.image)
    for wrong in (torch.zeros(2, 4), torch.zeros(4).double(), [0.0] * 4):
        with pytest.raises(ValueError, match="^distortion"):
            render(vertices, *arguments, distortion=wrong)  # type: ignore[arg-type]
