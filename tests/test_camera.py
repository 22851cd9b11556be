"""Cameras: projection, validation, and the same points through each convention's own formula."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fmlfast.camera import (
    check_cameras,
    from_nvdiffrast,
    from_opengl,
    from_pytorch3d,
    look_at,
    project,
    to_camera,
    to_nvdiffrast,
    to_opengl,
    to_pytorch3d,
)

HEIGHT, WIDTH = 121, 233


def cameras(seed: int, skew: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """World points before three random cameras: points [3, 50, 3], viewmats, Ks, float64."""
    g = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    eyes, targets = (rand(3, 3) - 0.5) * 900, (rand(3, 3) - 0.5) * 100
    viewmats = look_at(eyes, targets)
    Ks = torch.zeros(3, 3, 3, dtype=torch.float64)
    Ks[:, 0, 0], Ks[:, 1, 1], Ks[:, 2, 2] = 200 + 100 * rand(3), 200 + 100 * rand(3), 1
    Ks[:, 0, 1] = skew
    Ks[:, :2, 2] = rand(3, 2) * torch.tensor([WIDTH, HEIGHT])
    local = torch.cat([(rand(3, 50, 2) - 0.5) * 300, 100 + 800 * rand(3, 50, 1)], -1)
    world = (local - viewmats[:, None, :3, 3]) @ viewmats[:, :3, :3]
    return world, viewmats, Ks


def pixels(points: Tensor, viewmats: Tensor, Ks: Tensor) -> Tensor:
    """The reference: K (R X + t), one point at a time."""
    out = torch.empty(*points.shape[:2], 2, dtype=points.dtype)
    for f in range(len(points)):
        for i, point in enumerate(points[f]):
            x, y, z = (Ks[f] @ (viewmats[f, :3, :3] @ point + viewmats[f, :3, 3])).tolist()
            out[f, i] = torch.tensor([x / z, y / z], dtype=points.dtype)
    return out


@pytest.mark.parametrize("skew", [0.0, 7.0])
def test_project(skew: float):
    world, viewmats, Ks = cameras(0, skew)
    local = to_camera(world, viewmats)
    torch.testing.assert_close(project(local, Ks), pixels(world, viewmats, Ks))
    torch.testing.assert_close(project(local[1], Ks[1]), pixels(world, viewmats, Ks)[1])
    assert torch.autograd.gradcheck(project, (local[:, :4].requires_grad_(), Ks.requires_grad_()))


def test_look_at():
    eyes = torch.tensor([[0.0, 0, 500], [300, 100, -20]])
    targets = torch.tensor([[0.0, 0, 0], [10, 20, 30]])
    viewmats = look_at(eyes, targets)
    K = torch.tensor([[100.0, 0, 50], [0, 100, 40], [0, 0, 1]]).expand(2, 3, 3)
    check_cameras(viewmats, K)
    local = to_camera(torch.stack([targets, targets + torch.tensor([0.0, 10, 0])], 1), viewmats)
    torch.testing.assert_close(local[:, 0, 2], (eyes - targets).norm(dim=1))
    uv = project(local, K)
    torch.testing.assert_close(uv[:, 0], torch.tensor([[50.0, 40.0]] * 2), rtol=1e-5, atol=1e-3)
    assert (uv[:, 1, 1] < 39).all()  # up in the world is up in the picture
    torch.testing.assert_close(uv[:, 1, 0], torch.tensor([50.0, 50.0]), rtol=1e-5, atol=1e-3)
    # Seen from the front, the frontal pose of the conventions: R = diag(1, -1, -1).
    torch.testing.assert_close(viewmats[0, :3, :3], torch.diag(torch.tensor([1.0, -1, -1])))
    for eye, target in (((0.0, 5, 0), (0.0, 0, 0)), ((1.0, 2, 3), (1.0, 2, 3))):
        with pytest.raises(ValueError, match="eyes"):
            look_at(torch.tensor([eye]), torch.tensor([target]))


@pytest.mark.parametrize("skew", [0.0, 7.0])
def test_opengl(skew: float):
    world, viewmats, Ks = cameras(1, skew)
    near, far = 50.0, 2000.0
    modelviews, projections = to_opengl(viewmats, Ks, HEIGHT, WIDTH, near, far)
    homogeneous = torch.cat([world, torch.ones_like(world[..., :1])], -1)[..., None]
    eye = modelviews[:, None] @ homogeneous
    clip = (projections[:, None] @ eye)[..., 0]
    ndc = clip[..., :3] / clip[..., 3:]
    # glViewport(0, 0, W, H): window x from the left, y from the bottom.
    window = (ndc[..., :2] + 1) * torch.tensor([WIDTH / 2, HEIGHT / 2])
    u, v = pixels(world, viewmats, Ks).unbind(-1)
    torch.testing.assert_close(window[..., 0], u)
    torch.testing.assert_close(HEIGHT - window[..., 1], v)
    assert (eye[..., 2, 0] < 0).all()  # the camera looks along -z
    order = to_camera(world, viewmats)[..., 2].argsort(1)
    assert (ndc[..., 2].gather(1, order).diff(dim=1) > 0).all()  # farther is larger
    planes = torch.tensor([[0.0, 0, -near, 1], [0, 0, -far, 1]], dtype=torch.float64)
    ends = planes @ projections[0].T
    torch.testing.assert_close(ends[:, 2] / ends[:, 3], torch.tensor([-1.0, 1.0], dtype=torch.float64))
    back = from_opengl(modelviews, projections, HEIGHT, WIDTH)
    torch.testing.assert_close(back, (viewmats, Ks))


def test_opengl_centred_camera_is_glu_perspective():
    """gluPerspective: f / aspect, f, with f = cot(fovy / 2)."""
    Ks = torch.tensor([[[300.0, 0, WIDTH / 2], [0, 300, HEIGHT / 2], [0, 0, 1]]])
    _, projections = to_opengl(torch.eye(4)[None], Ks, HEIGHT, WIDTH, 1.0, 10.0)
    f = 300 / (HEIGHT / 2)
    expected = torch.tensor([[f * HEIGHT / WIDTH, 0, 0, 0], [0, f, 0, 0], [0, 0, -11 / 9, -20 / 9], [0, 0, -1, 0]])
    torch.testing.assert_close(projections[0], expected)


@pytest.mark.parametrize(("height", "width"), [(HEIGHT, WIDTH), (WIDTH, HEIGHT), (64, 64)])
def test_pytorch3d(height: int, width: int):
    world, viewmats, Ks = cameras(2)
    R, T, focal, principal = to_pytorch3d(viewmats, Ks, height, width)
    view = world @ R + T[:, None]
    ndc = focal[:, None] * view[..., :2] / view[..., 2:] + principal[:, None]
    # get_ndc_to_screen_transform: x_screen = W / 2 - x_ndc s, y_screen = H / 2 - y_ndc s, s = min(H, W) / 2
    screen = torch.tensor([width / 2, height / 2]) - ndc * min(height, width) / 2
    torch.testing.assert_close(screen, pixels(world, viewmats, Ks))
    torch.testing.assert_close(view[..., 2], to_camera(world, viewmats)[..., 2])
    torch.testing.assert_close(torch.linalg.det(R), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(from_pytorch3d(R, T, focal, principal, height, width), (viewmats, Ks))
    with pytest.raises(ValueError, match="skew"):
        to_pytorch3d(*cameras(2, 1.0)[1:], height, width)


@pytest.mark.parametrize("skew", [0.0, 7.0])
def test_nvdiffrast(skew: float):
    world, viewmats, Ks = cameras(3, skew)
    local = to_camera(world, viewmats)
    clip = to_nvdiffrast(local, Ks, HEIGHT, WIDTH, 50.0, 2000.0)
    ndc = clip[..., :3] / clip[..., 3:]
    # Column c and row r of the output have their centres at x = (2 c + 1) / W - 1, y = (2 r + 1) / H - 1.
    screen = (ndc[..., :2] + 1) * torch.tensor([WIDTH / 2, HEIGHT / 2])
    torch.testing.assert_close(screen, pixels(world, viewmats, Ks))
    _, projections = to_opengl(viewmats, Ks, HEIGHT, WIDTH, 50.0, 2000.0)
    opengl = torch.cat([local * torch.tensor([1, -1, -1]), torch.ones_like(local[..., :1])], -1)
    opengl = opengl @ projections.transpose(1, 2)
    torch.testing.assert_close(clip * torch.tensor([1, -1, 1, 1]), opengl)
    torch.testing.assert_close(from_nvdiffrast(clip, Ks, HEIGHT, WIDTH), local)


def change(tensor: Tensor, index: tuple, value: float) -> Tensor:
    tensor = tensor.clone()
    tensor[index] = value
    return tensor


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("viewmats", lambda v, k: (v[0], k)),
        ("viewmats", lambda v, k: (change(v, (1, 3, 0), 1e-3), k)),
        ("viewmats", lambda v, k: (1.2 * v, k)),
        ("viewmats", lambda v, k: (change(v, (0, 0, 0), float("nan")), k)),
        ("viewmats", lambda v, k: (v * torch.tensor([1, 1, -1, 1])[:, None], k)),
        ("viewmats", lambda v, k: (v * torch.tensor([1.1, 1, 1, 1])[:, None], k)),
        ("Ks", lambda v, k: (v, k.float())),
        ("Ks", lambda v, k: (v, k[:2])),
        ("Ks", lambda v, k: (v, change(k, (0, 0, 0), -200.0))),
        ("Ks", lambda v, k: (v, change(k, (2, 2, 2), 2.0))),
        ("Ks", lambda v, k: (v, change(k, (2, 1, 0), 1.0))),
    ],
)
def test_bad_cameras_name_the_argument(name: str, broken: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]):
    _, viewmats, Ks = cameras(4)
    check_cameras(viewmats, Ks)
    with pytest.raises(ValueError, match=f"^{name} "):
        check_cameras(*broken(viewmats, Ks))


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("points", lambda v, k: project(torch.zeros(4, 2), k)),
        ("Ks", lambda v, k: project(torch.zeros(4, 3), k[:, :2])),
        ("points", lambda v, k: to_camera(torch.zeros(4, 3), v)),
        ("viewmats", lambda v, k: to_camera(torch.zeros(2, 4, 3), v)),
        ("height", lambda v, k: to_opengl(v, k, 0, 5, 1.0, 2.0)),
        ("near", lambda v, k: to_opengl(v, k, 5, 5, 2.0, 1.0)),
        ("projections", lambda v, k: from_opengl(v, torch.zeros(3, 4, 4).double(), 5, 5)),
        ("projections", lambda v, k: from_opengl(v, torch.zeros(4, 4).double(), 5, 5)),
        ("width", lambda v, k: to_pytorch3d(v, k, 5, 0)),
        ("T", lambda v, k: from_pytorch3d(v[:, :3, :3], v[:, :3], k[:, 0, :2], k[:, 0, :2], 5, 5)),
        ("points", lambda v, k: to_nvdiffrast(torch.zeros(3, 4, 4), k, 5, 5, 1.0, 2.0)),
        ("Ks", lambda v, k: from_nvdiffrast(torch.zeros(2, 4, 4), k, 5, 5)),
        ("eyes", lambda v, k: look_at(torch.zeros(3), torch.zeros(3))),
    ],
)
def test_bad_input_names_the_argument(name: str, call: Callable[[Tensor, Tensor], object]):
    _, viewmats, Ks = cameras(5)
    with pytest.raises(ValueError, match=f"^{name} "):
        call(viewmats, Ks)
