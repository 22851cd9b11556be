"""The converters of cameras, proven by pictures: one scene, drawn by us and by each library's own rules.

What other libraries draw is written down here from their documentation, in float64 and by brute force, knowing nothing
of fmlfast.camera: where they put a point, where the centres of pixels are, which row comes first, what depth means.
The scene has no symmetry: rotated cameras, oblong pixels in an oblong picture, a principal point off the centre.
"""

import math

import pytest
import torch
from torch import Tensor

from fmlfast.camera import (
    from_nvdiffrast,
    from_opengl,
    from_pytorch3d,
    look_at,
    to_camera,
    to_nvdiffrast,
    to_opengl,
    to_pytorch3d,
)
from fmlfast.renderer import rasterize

HEIGHT, WIDTH = 37, 61
NEAR, FAR = 640.0, 3000.0  # the near plane cuts through the scene

Picture = tuple[Tensor, Tensor]  # triangle ids, -1 where there is none, and depths: [H, W] each


def rand(g: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=g, dtype=torch.float64)


def soup(seed: int) -> tuple[Tensor, Tensor]:
    """A hundred triangles about the origin: points [300, 3], triangles [100, 3]."""
    g = torch.Generator().manual_seed(seed)
    points = (rand(g, 100, 1, 3) - 0.5) * 420 + (rand(g, 100, 3, 3) - 0.5) * 260
    return points.view(-1, 3), torch.arange(300, dtype=torch.int32).view(100, 3)


def our_cameras(seed: int, skew: float = 0.0, height: int = HEIGHT, width: int = WIDTH) -> tuple[Tensor, Tensor]:
    """Four cameras some 700 mm away: viewmats [4, 4, 4], Ks [4, 3, 3]."""
    g = torch.Generator().manual_seed(seed)
    eyes = torch.nn.functional.normalize(rand(g, 4, 3) - 0.5, dim=-1) * (650 + 150 * rand(g, 4, 1))
    viewmats = look_at(eyes, (rand(g, 4, 3) - 0.5) * 80, (0.3, 0.9, -0.2))
    Ks = torch.eye(3, dtype=torch.float64).repeat(4, 1, 1)
    Ks[:, (0, 1), (0, 1)] = torch.tensor([52.0, 67.0]) + 20 * rand(g, 4, 2)
    Ks[:, :2, 2] = torch.tensor([width, height]) * (0.3 + 0.4 * rand(g, 4, 2))
    Ks[:, 0, 1] = skew
    return viewmats, Ks


def ours(
    local: Tensor,
    triangles: Tensor,
    Ks: Tensor,
    near: float,
    cull: bool = False,
    height: int = HEIGHT,
    width: int = WIDTH,
) -> Picture:
    """What fmlfast sees of points in camera space, [N, 3]."""
    got = rasterize(local[None].float(), triangles, Ks[None].float(), height, width, cull, near)
    return got.triangle_id[0].long(), got.depth[0].double()


def cover(centres: Tensor, corners: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of the corners [T, 3, 2] at the centres [H, W, 2], linear on the screen, [T, H, W, 3], and areas [T]."""
    a, b, c = corners[:, None, None].unbind(3)

    def twice_the_area(p: Tensor, q: Tensor, r: Tensor) -> Tensor:
        return (q - p)[..., 0] * (r - p)[..., 1] - (q - p)[..., 1] * (r - p)[..., 0]

    parts = torch.stack(
        [twice_the_area(b, c, centres), twice_the_area(c, a, centres), twice_the_area(a, b, centres)], -1
    )
    area = twice_the_area(a, b, c)
    return parts / area[..., None], area[:, 0, 0]


def nearest(seen: Tensor, depth: Tensor) -> Picture:
    """The triangle of least depth among those seen at a pixel, [T, H, W] both."""
    best, triangle = torch.where(seen, depth, torch.inf).min(0)
    return torch.where(best < torch.inf, triangle, -1), best


def grid(x: Tensor, y: Tensor) -> Tensor:
    """Centres [H, W, 2] of columns at x and rows at y."""
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


def draw_clip_space(clip: Tensor, triangles: Tensor, cull: bool = False) -> Picture:
    """OpenGL from clip space on, and nvdiffrast, which follows it: window row 0 is at y = -1, and so is its image's.

    Fragments beyond the planes z = -w and z = w are clipped; z / w is linear on the screen. Depth is z / w, in [-1, 1].
    Front faces are counter-clockwise in the window, y up.
    """
    ndc = clip[:, :3] / clip[:, 3:]
    centres = grid(
        (2 * torch.arange(WIDTH, dtype=torch.float64) + 1) / WIDTH - 1,
        (2 * torch.arange(HEIGHT, dtype=torch.float64) + 1) / HEIGHT - 1,
    )
    corners = ndc[triangles.long()]
    weights, area = cover(centres, corners[..., :2])
    depth = (weights * corners[:, None, None, :, 2]).sum(-1)
    seen = (weights > 0).all(-1) & (depth.abs() <= 1)
    if cull:
        seen &= area[:, None, None] > 0
    return nearest(seen, depth)


def distance(picture: Picture) -> Picture:
    """Eye-space distance along the view in place of z / w, which is (f + n) / (f - n) - 2 f n / (f - n) / distance."""
    ids, depth = picture
    return ids, torch.where(ids >= 0, 2 * FAR * NEAR / (FAR + NEAR - depth * (FAR - NEAR)), torch.inf)


def draw_opengl(
    points: Tensor, triangles: Tensor, modelview: Tensor, projection: Tensor, cull: bool = False
) -> Picture:
    """OpenGL's fixed pipeline: clip = P MV X, column vectors; row 0 is the bottom of the window."""
    homogeneous = torch.cat([points, torch.ones_like(points[:, :1])], 1)
    return distance(draw_clip_space((projection @ modelview @ homogeneous.T).T, triangles, cull))


def draw_pytorch3d(
    points: Tensor,
    triangles: Tensor,
    R: Tensor,
    T: Tensor,
    focal_length: Tensor,
    principal_point: Tensor,
    height: int = HEIGHT,
    width: int = WIDTH,
) -> Picture:
    """PyTorch3D's MeshRasterizer, PerspectiveCameras(in_ndc=True): X_view = X R + T, row vectors; +x left, +y up.

    The shorter side spans [-1, 1]. Pixel (0, 0), top left, is at the greatest x and y. Depth is z in view space.
    """
    view = points @ R + T
    ndc = focal_length * view[:, :2] / view[:, 2:] + principal_point
    across, down = width / min(height, width), height / min(height, width)
    centres = grid(
        across * (1 - (2 * torch.arange(width, dtype=torch.float64) + 1) / width),
        down * (1 - (2 * torch.arange(height, dtype=torch.float64) + 1) / height),
    )
    weights, _ = cover(centres, ndc[triangles.long()])
    depth = 1 / (weights / view[triangles.long(), 2][:, None, None]).sum(-1)
    return nearest((weights > 0).all(-1), depth)


def assert_same_picture(got: Picture, expected: Picture) -> None:
    """Equal but for rounding at an edge, at most a pixel; and no picture that a wrong convention could show as well."""
    ids, depth = expected
    assert 0.2 < (ids >= 0).double().mean() < 0.95 and len(ids.unique()) > 20
    for wrong in (ids.flip(0), ids.flip(1), ids.roll(1, 0), ids.roll(1, 1)):
        assert (wrong != ids).sum() > 200
    same = got[0] == ids
    assert (~same).sum() <= 1
    torch.testing.assert_close(got[1][same], depth[same], rtol=1e-5, atol=0)


@pytest.mark.parametrize("cull", [False, True])
@pytest.mark.parametrize("skew", [0.0, 9.0])
def test_to_opengl(skew: float, cull: bool):
    points, triangles = soup(1)
    viewmats, Ks = our_cameras(1, skew)
    modelviews, projections = to_opengl(viewmats, Ks, HEIGHT, WIDTH, NEAR, FAR)
    local = to_camera(points.expand(4, -1, -1), viewmats)
    for f in range(4):
        ids, depth = draw_opengl(points, triangles, modelviews[f], projections[f], cull)
        got = ours(local[f], triangles, Ks[f], NEAR, cull)
        assert_same_picture(got, (ids.flip(0), depth.flip(0)))
        assert (got[0] != ours(local[f], triangles, Ks[f], 1.0, cull)[0]).sum() > 20  # the near plane cuts indeed


@pytest.mark.parametrize(("height", "width"), [(HEIGHT, WIDTH), (WIDTH, HEIGHT)])
def test_to_pytorch3d(height: int, width: int):
    points, triangles = soup(2)
    viewmats, Ks = our_cameras(2, height=height, width=width)
    arguments = to_pytorch3d(viewmats, Ks, height, width)
    local = to_camera(points.expand(4, -1, -1), viewmats)
    for f in range(4):
        expected = draw_pytorch3d(points, triangles, *(a[f] for a in arguments), height=height, width=width)
        assert_same_picture(ours(local[f], triangles, Ks[f], 1.0, height=height, width=width), expected)


@pytest.mark.parametrize("skew", [0.0, 9.0])
def test_to_nvdiffrast(skew: float):
    """Our images have row 0 on top, and nvdiffrast's of these positions do too."""
    points, triangles = soup(3)
    viewmats, Ks = our_cameras(3, skew)
    local = to_camera(points.expand(4, -1, -1), viewmats)
    clip = to_nvdiffrast(local, Ks, HEIGHT, WIDTH, NEAR, FAR)
    for f in range(4):
        expected = distance(draw_clip_space(clip[f], triangles))
        assert_same_picture(ours(local[f], triangles, Ks[f], NEAR), expected)


def glu_look_at(eye: Tensor, center: Tensor, up: Tensor) -> Tensor:
    """gluLookAt: rows s, u, -f with f = center - eye, s = f x up, u = s x f, then a translation by -eye."""
    unit = torch.nn.functional.normalize
    f = unit(center - eye, dim=0)
    s = unit(torch.linalg.cross(f, up), dim=0)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = torch.stack([s, torch.linalg.cross(s, f), -f])
    translation = torch.eye(4, dtype=torch.float64)
    translation[:3, 3] = -eye
    return matrix @ translation


def glu_perspective(fovy: float) -> Tensor:
    """gluPerspective(fovy, width / height, near, far)."""
    f = 1 / math.tan(math.radians(fovy) / 2)
    return torch.tensor(
        [
            [f * HEIGHT / WIDTH, 0, 0, 0],
            [0, f, 0, 0],
            [0, 0, (FAR + NEAR) / (NEAR - FAR), 2 * FAR * NEAR / (NEAR - FAR)],
            [0, 0, -1, 0],
        ],
        dtype=torch.float64,
    )


def gl_frustum(left: float, right: float, bottom: float, top: float) -> Tensor:
    """glFrustum(left, right, bottom, top, near, far), sides given at the near plane."""
    return torch.tensor(
        [
            [2 * NEAR / (right - left), 0, (right + left) / (right - left), 0],
            [0, 2 * NEAR / (top - bottom), (top + bottom) / (top - bottom), 0],
            [0, 0, -(FAR + NEAR) / (FAR - NEAR), -2 * FAR * NEAR / (FAR - NEAR)],
            [0, 0, -1, 0],
        ],
        dtype=torch.float64,
    )


GL_EYE, GL_CENTER, GL_UP = torch.tensor([[430.0, 260, -560], [30, -20, 10], [0.2, 1, 0.1]], dtype=torch.float64)
projections_of_users = pytest.mark.parametrize(
    "projection", [glu_perspective(35.0), gl_frustum(-380.0, 240.0, -130.0, 290.0)], ids=["perspective", "frustum"]
)


@projections_of_users
def test_from_opengl(projection: Tensor):
    points, triangles = soup(4)
    modelview = glu_look_at(GL_EYE, GL_CENTER, GL_UP)
    viewmats, Ks = from_opengl(modelview[None], projection[None], HEIGHT, WIDTH)
    ids, depth = draw_opengl(points, triangles, modelview, projection)
    local = to_camera(points[None], viewmats)[0]
    assert_same_picture(ours(local, triangles, Ks[0], NEAR), (ids.flip(0), depth.flip(0)))


@pytest.mark.parametrize("intrinsics", [(90.0, 70.0, 20.0, 5.0), (40.0, 55.0, 33.0, 25.0)])
@projections_of_users
def test_from_nvdiffrast(projection: Tensor, intrinsics: tuple[float, float, float, float]):
    """Clip space as users make it, with OpenGL's matrices: the same rows in the same order, whatever Ks is chosen."""
    points, triangles = soup(5)
    homogeneous = torch.cat([points, torch.ones_like(points[:, :1])], 1)
    clip = homogeneous @ (projection @ glu_look_at(GL_EYE, GL_CENTER, GL_UP)).T
    fx, fy, cx, cy = intrinsics
    Ks = torch.tensor([[[fx, 3.0, cx], [0, fy, cy], [0, 0, 1]]], dtype=torch.float64)
    local = from_nvdiffrast(clip[None], Ks, HEIGHT, WIDTH)[0]
    assert_same_picture(ours(local, triangles, Ks[0], NEAR), distance(draw_clip_space(clip, triangles)))


def test_from_pytorch3d():
    """look_at_rotation: the columns of R are the camera's axes in the world, x = up x z, and T = -R^T eye."""
    points, triangles = soup(6)
    eye, at, up = torch.tensor([[-390.0, 310, 480], [15, 25, -30], [-0.1, 1, 0.2]], dtype=torch.float64)
    unit = torch.nn.functional.normalize
    z = unit(at - eye, dim=0)
    x = unit(torch.linalg.cross(up, z), dim=0)
    y = unit(torch.linalg.cross(z, x), dim=0)
    R = torch.stack([x, y, z], 1)
    T = -(R.T @ eye)
    focal, principal = torch.tensor([[2.6, 3.1], [0.23, -0.14]], dtype=torch.float64)
    viewmats, Ks = from_pytorch3d(R[None], T[None], focal[None], principal[None], HEIGHT, WIDTH)
    local = to_camera(points[None], viewmats)[0]
    expected = draw_pytorch3d(points, triangles, R, T, focal, principal)
    assert_same_picture(ours(local, triangles, Ks[0], 1.0), expected)
