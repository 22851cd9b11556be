"""Draws docs/images/axes.png, the conventions in one picture: python tools/draw_axes.py (needs the extra `eval`).

The scene is rendered by fmlfast itself: the face in the world, and before the camera the picture that it takes.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import fmlfast.common.passive_waiting  # noqa: F401  (before torch)

import matplotlib
import torch
from PIL import Image
from torch import Tensor

from fmlfast import FaceTemplate
from fmlfast.camera import look_at, project, to_camera
from fmlfast.color import linear_to_srgb, srgb_to_linear
from fmlfast.renderer import render, vertex_normals

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # after the choice of the backend
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

WIDTH, HEIGHT, SCENE = 1600, 760, 1060  # px of the figure, and of the part that the scene takes
RED, GREEN, BLUE, INK, GREY = "#c8372d", "#2f8f3e", "#2b62c4", "#22262b", "#7d848d"
COLUMNS, ROWS = 22, 26  # of the camera's picture
PLANE = 265.0  # mm from the camera to where its picture is drawn

# Axis: colour, length in mm, text, and where it stands relative to the arrow's head in px.
WORLD = (
    (RED, 185.0, "+x  subject's left", (92.0, -14.0)),
    (GREEN, 165.0, "+y  up", (58.0, 2.0)),
    (BLUE, 165.0, "+z  out of face", (-4.0, 30.0)),
)
CAMERA = (
    (RED, 120.0, "+x  right", (10.0, -24.0)),
    (GREEN, 110.0, "+y  down", (0.0, 24.0)),
    (BLUE, 120.0, "+z  forward", (-16.0, 76.0)),
)


def lit(template: FaceTemplate) -> Tensor:
    """Shades the template under a lamp from above, [V, 3] linear colours."""
    normals = vertex_normals(template.vertices[None], template.triangles)[0]
    lamp = torch.nn.functional.normalize(torch.tensor([-0.35, 0.5, 0.8]), dim=0)
    return template.colors * (0.45 + 1.25 * (normals @ lamp).clamp(min=0))[:, None]


def unproject(pixels: Tensor, depth: float, viewmat: Tensor, K: Tensor) -> Tensor:
    """Unprojects pixels [N, 2] to world points [N, 3] at `depth` from the camera."""
    rays = torch.cat([pixels, torch.ones(len(pixels), 1)], 1) @ torch.linalg.inv(K).T
    return (depth * rays - viewmat[:3, 3]) @ viewmat[:3, :3]


def picture_mesh(image: Tensor, viewmat: Tensor, K: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Converts the image [H, W, 3] to squares in the world at depth PLANE.

    Returns vertices [4HW, 3], triangles [2HW, 3] and colours [4HW, 3].
    """
    rows, columns = image.shape[:2]
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    square = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    corners = (torch.stack([column, row], -1)[:, :, None] + square).reshape(-1, 2)
    first = 4 * torch.arange(rows * columns, dtype=torch.int32)[:, None, None]
    triangles = (first + torch.tensor([[0, 2, 1], [0, 3, 2]], dtype=torch.int32)).view(-1, 3)
    return unproject(corners, PLANE, viewmat, K), triangles, image.reshape(-1, 3).repeat_interleave(4, 0)


def label(ax: Axes, at: Sequence[float], text: str, color: str = INK, size: float = 17, **options: str) -> None:
    x, y = at
    options = {"ha": "center", "va": "center"} | options
    box = {"fc": "white", "ec": "none", "alpha": 0.8, "pad": 1.5}
    ax.text(x, y, text, color=color, fontsize=size, zorder=8, bbox=box, **options)  # type: ignore[arg-type]


def arrow(ax: Axes, start: Sequence[float], end: Sequence[float], color: str, width: float = 3.4) -> None:
    style = {
        "arrowstyle": "-|>,head_width=0.42,head_length=0.8",
        "color": color,
        "lw": width,
        "shrinkA": 0,
        "shrinkB": 0,
    }
    ax.annotate("", (end[0], end[1]), (start[0], start[1]), arrowprops=style, zorder=5)


def dot(ax: Axes, at: Sequence[float], size: float = 10, color: str = INK) -> None:
    ax.plot(*at, "o", color=color, ms=size, zorder=7)


def draw_scene(ax: Axes, template: FaceTemplate) -> None:
    """Draws world and camera with the camera's image between them, seen from the subject's right."""
    K = torch.tensor([[53.0, 0, COLUMNS / 2], [0, 53, ROWS / 2], [0, 0, 1]])
    viewmat = look_at(torch.tensor([[0.0, 0, 585]]), torch.zeros(1, 3))[0]
    colors = lit(template)
    face = (template.vertices[None], template.triangles, colors[None], viewmat[None], K[None])
    paper = srgb_to_linear(torch.tensor([0.89, 0.91, 0.94]))
    photo = render(*face, ROWS, COLUMNS, background=paper, supersample=4).image[0]
    plane, plane_triangles, plane_colors = picture_mesh(photo, viewmat, K)

    onlooker = look_at(torch.tensor([[-1430.0, 860, 1560]]), torch.tensor([[8.0, 26, 258]]))
    onlooker_K = torch.tensor([[[2880.0, 0, SCENE / 2], [0, 2880, HEIGHT / 2], [0, 0, 1]]])
    both = torch.cat([template.vertices, plane])[None]
    triangles = torch.cat([template.triangles, plane_triangles + len(template.vertices)])
    colors = torch.cat([colors, plane_colors])[None]
    seen = render(
        both, triangles, colors, onlooker, onlooker_K, HEIGHT, SCENE, background=torch.ones(3), supersample=2
    ).image[0]
    ax.imshow(linear_to_srgb(seen.clamp(0, 1)), extent=(0, SCENE, HEIGHT, 0), interpolation="none")

    def place(*points: Tensor) -> Tensor:
        return project(to_camera(torch.stack(points)[None], onlooker), onlooker_K)[0]

    origin, eye = torch.zeros(3), torch.linalg.inv(viewmat)[:3, 3]
    corners = torch.tensor([[0.0, 0], [COLUMNS, 0], [COLUMNS, ROWS], [0, ROWS]])
    frame = place(*unproject(corners, PLANE, viewmat, K))
    center = place(eye)[0]
    for corner in frame:
        ax.plot(*torch.stack([center, corner]).T.tolist(), color=GREY, lw=1.3)
    ax.plot(*frame[1:].T.tolist(), color=INK, lw=1.6)
    arrow(ax, frame[0].tolist(), frame[1].tolist(), RED, 2.2)
    arrow(ax, frame[0].tolist(), frame[3].tolist(), GREEN, 2.2)
    dot(ax, frame[0].tolist(), 7)
    label(ax, (frame[0] + torch.tensor([-36.0, -14])).tolist(), "(0, 0)")
    label(ax, (frame[1] + torch.tensor([14.0, -10])).tolist(), "u", RED)
    label(ax, (frame[3] + torch.tensor([-16.0, 2])).tolist(), "v", GREEN)
    for start, rotation, axes in ((origin, torch.eye(3), WORLD), (eye, viewmat[:3, :3], CAMERA)):
        for direction, (color, length, text, offset) in zip(rotation, axes, strict=True):
            tail, head = place(start, start + length * direction)
            arrow(ax, tail.tolist(), head.tolist(), color)
            label(ax, (head + torch.tensor(offset)).tolist(), text, color)
        dot(ax, place(start)[0].tolist())


def draw_pixels(ax: Axes) -> None:
    """Draws the image plane with the corners and centres of pixels."""
    left, top, cell, columns, rows = 1130, 210, 78, 5, 5
    for row in range(rows):
        for column in range(columns):
            marked = (row, column) in ((0, 0), (2, 3))
            x, y = left + column * cell, top + row * cell
            ax.add_patch(Rectangle((x, y), cell, cell, fc="#fbe7b2" if marked else "#f1f3f6", ec="#c3c9d1", lw=1.2))
            dot(ax, (x + cell / 2, y + cell / 2), 5, INK if marked else GREY)
            if marked:
                ax.text(x + cell / 2, y + 0.21 * cell, f"[{row}, {column}]", fontsize=12, ha="center", va="center")
                center = f"({column + 0.5}, {row + 0.5})"
                ax.text(x + cell / 2, y + 0.79 * cell, center, fontsize=12, ha="center", va="center")
    right, bottom = left + columns * cell, top + rows * cell
    arrow(ax, (left, top), (right + 40, top), RED)
    arrow(ax, (left, top), (left, bottom + 40), GREEN)
    dot(ax, (left, top))
    dot(ax, (right, bottom), 7)
    label(ax, (right + 54, top), "u", RED)
    label(ax, (left, bottom + 58), "v", GREEN)
    label(ax, (left, top - 26), "(0, 0)")
    label(ax, (right + 8, bottom + 24), "(width, height)", ha="right")
    label(ax, ((left + right) / 2, 716), r"$u = f_x\,X/Z + c_x \quad v = f_y\,Y/Z + c_y$", size=19)


def draw_titles(ax: Axes) -> None:
    for x, title, text in (
        (180, "World", "mm, right-handed"),
        (800, "Camera", "mm, as in OpenCV"),
        (1325, "Image", "[row, column], centre at (u, v) px"),
    ):
        label(ax, (x, 48), title, size=24, weight="bold")
        label(ax, (x, 86), text, GREY)
    for start, end, name, text in ((262, 704, "viewmats", r"$X_{cam} = R\,X + t$"), (896, 1248, "Ks", "")):
        arrow(ax, (start, 50), (end, 50), GREY, 2.4)
        label(ax, ((start + end) / 2, 26), name, weight="bold")
        label(ax, ((start + end) / 2, 78), text, size=19)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images/axes.png"))
    out = parser.parse_args().out
    figure = plt.figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=100, facecolor="white")
    ax = figure.add_axes((0, 0, 1, 1))
    ax.axis("off")
    draw_scene(ax, FaceTemplate.default(2))
    draw_pixels(ax)
    draw_titles(ax)
    ax.set(xlim=(0, WIDTH), ylim=(HEIGHT, 0), aspect="auto")
    figure.savefig(out)
    Image.open(out).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(out, optimize=True)


if __name__ == "__main__":
    main()
