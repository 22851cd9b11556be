"""Pictures: what is drawn where."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fmlfast.color import linear_to_srgb
from fmlfast.data.frames import Frames
from fmlfast.model.codes import Codes
from fmlfast.model.fml import FML
from fmlfast.template.face_template import FaceTemplate
from fmlfast.visualization.panels import (
    COLUMNS,
    PAPER,
    colorbar,
    colormap,
    draw,
    error_colors,
    error_map,
    nice_ceiling,
    portrait,
    reconstruction_panel,
    save_image,
    scale_end,
    tile,
)


def cells(panel: np.ndarray, size: int) -> np.ndarray:
    """A panel's pictures [R,C,S,S,3], found from the bottom right corner."""
    rows, columns = panel.shape[0] // size, panel.shape[1] // size
    gap = (panel.shape[1] - columns * size) // (columns - 1)
    grid = []
    for row in reversed(range(rows)):
        bottom = panel.shape[0] - row * (size + gap)
        line = [panel[bottom - size : bottom, c * (size + gap) : c * (size + gap) + size] for c in range(columns)]
        grid.append(np.stack(line))
    return np.stack(grid)


@pytest.fixture
def codes(model: FML, frames: Frames) -> Codes:
    with torch.no_grad():
        return model.encode(frames)


def test_the_panel_shows_every_column(model: FML, frames: Frames, codes: Codes) -> None:
    size = frames.images.shape[-1]
    panel = reconstruction_panel(model, frames, codes, rows=3)
    assert panel.dtype == np.uint8
    grid = cells(panel, size)
    assert grid.shape == (3, len(COLUMNS), size, size, 3)
    # Both subjects are shown, and first frames before others: subject 0 in frames 0 and 1, subject 1 in frame 0.
    for row, (subject, frame) in enumerate([(0, 0), (0, 1), (1, 0)]):
        image = frames.images[subject, frame].permute(1, 2, 0).numpy() * 255
        assert np.abs(grid[row, 0] - image).max() <= 0.51
    face, grey = np.any(grid[:, 2] != PAPER, axis=-1), grid[:, 2].astype(int)
    inside = face & ~np.any(np.abs(grey - PAPER) < 12, axis=-1)
    assert inside.mean() > 0.1
    assert np.ptp(grey[inside], axis=-1).max() <= 3  # clay has no colour, but for the paper at its edges
    assert (grid[:, 1][~face] == grid[:, 0][~face]).all()  # the overlay leaves the background alone
    assert np.abs(grid[:, 1][inside].astype(int) - grid[:, 0][inside]).mean() > 2
    for column in (3, 4):
        assert (grid[:, column][~face] == PAPER).all()
        assert (grid[:, column][inside] != PAPER).any()


@pytest.mark.gpu
def test_the_panel_of_a_model_on_a_gpu_is_the_same(model: FML, frames: Frames, codes: Codes) -> None:
    expected = reconstruction_panel(model, frames, codes)
    found = reconstruction_panel(model.to("cuda"), frames.to("cuda"), codes.to("cuda"))
    assert np.abs(found.astype(int) - expected).mean() < 1


def test_padding_frames_are_not_shown(model: FML, frames: Frames, codes: Codes) -> None:
    mask = frames.mask.clone()
    mask[0, :3] = False
    mask[1, 1:] = False
    grid = cells(reconstruction_panel(model, replace(frames, mask=mask), codes, rows=8), frames.images.shape[-1])
    assert len(grid) == 2
    for row, (subject, frame) in enumerate([(0, 3), (1, 0)]):
        assert np.abs(grid[row, 0] - frames.images[subject, frame].permute(1, 2, 0).numpy() * 255).max() <= 0.51
    with pytest.raises(ValueError, match="rows"):
        reconstruction_panel(model, frames, codes, rows=0)


def test_edges_are_smooth_and_values_premultiplied() -> None:
    corners = torch.tensor([[[-10.0, -10, 100], [-10, 10, 100], [10, 10, 100], [10, -10, 100]]])
    triangles = torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32)
    K = torch.tensor([[[44.0, 0, 8], [0, 40.0, 8], [0, 0, 1]]])  # edges at x = 3.6 and 12.4, y = 4 and 12
    normals = torch.tensor([0.0, 0.0, -1.0]).expand(1, 4, 3)
    fields = torch.cat([torch.tensor([0.8, 0.4]).expand(1, 4, 2), normals], -1)
    values, coverage = draw(corners, triangles, fields, K, 16)
    assert values.shape == (1, 16, 16, 5) and coverage.shape == (1, 16, 16, 1)
    torch.testing.assert_close(coverage[0, 4:12, 4:12], torch.ones(8, 8, 1))
    assert coverage[0, 4:12, 3].unique().tolist() == [0.5] and coverage[0, :4].max() == 0
    torch.testing.assert_close(values[..., :2], coverage * torch.tensor([0.8, 0.4]))
    clay = values[0, 8, 8, 2:]
    assert (clay == clay[0]).all() and 0.3 < clay[0] < 0.9


def test_tiles_lie_where_they_belong() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(2, 3, 40, 40, 3, generator=generator)
    page = tile(pictures, ("a", "b", "c"))
    np.testing.assert_array_equal(cells(page, 40), (pictures * 255).round().byte().numpy())
    header = page[: page.shape[0] - 2 * 40 - 4]
    dark = header.max(-1) < 150
    assert all(dark[:, 44 * c : 44 * c + 40].any() for c in range(3))  # a caption above each column


def test_labels_stand_before_rows_and_notes_below_cells() -> None:
    pictures = torch.zeros(2, 2, 30, 40, 3)
    plain = tile(pictures, ("a", "b"))
    page = tile(pictures, ("a", "b"), ("first\nrow", ""), [["", "x"], ["", ""]])
    margin, strip = page.shape[1] - plain.shape[1], (page.shape[0] - plain.shape[0]) // 2
    assert margin > 20 and strip > 10
    top = plain.shape[0] - 2 * 30 - 4  # of the first row
    inked = (page != PAPER).any(-1)
    black = (page == 0).all(-1)
    for row in range(2):
        start = top + row * (30 + strip + 4)
        assert black[start : start + 30, margin : margin + 40].all() and black[start : start + 30, margin + 44 :].all()
        assert inked[start : start + 30, :margin].any() == (row == 0)
        below = inked[start + 30 : start + 30 + strip]
        assert below[:, margin + 44 :].any() == (row == 0) and not below[:, : margin + 42].any()


def test_portraits_frame_the_face_and_turn_it() -> None:
    template = FaceTemplate.default(0)
    moved = torch.stack([template.vertices, template.vertices + torch.tensor([30.0, 0.0, 0.0])])
    fields = template.regions["face"][None, :, None].expand(2, -1, 1)
    values, alpha = portrait(template, moved, fields, 80)
    assert values.shape == (2, 80, 80, 4) and alpha.shape == (2, 80, 80, 1)

    def center(image: torch.Tensor) -> torch.Tensor:
        return torch.stack([(image.sum(axis) * torch.arange(80)).sum() / image.sum() for axis in (0, 1)])

    face = values[..., 0] > 0.5
    assert face[0].any(1).float().mean() > 0.7 and not face[0][[0, -1]].any() and not face[0][:, [0, -1]].any()
    x, y = center(face[0].float())
    assert x == pytest.approx(39.5, abs=1) and y == pytest.approx(39.5, abs=6)
    assert center(face[1].float())[0] > x + 8  # +x is to the right
    turned, _ = portrait(template, template.vertices[None], template.vertices[None, :, 2:].clamp(min=0) / 200, 80, 40.0)
    straight, _ = portrait(template, template.vertices[None], template.vertices[None, :, 2:].clamp(min=0) / 200, 80)
    assert center(turned[0, ..., 0])[0] > center(straight[0, ..., 0])[0] + 2  # the nose points right


def test_error_colours_run_over_their_scale() -> None:
    template = FaceTemplate.default(0)
    face = template.regions["face"] > 0.5
    colors = error_colors(template, torch.tensor([0.0, 2.5, 5.0, 9.0])[:, None].expand(-1, len(face)), 5.0)
    srgb = linear_to_srgb(colors) * 255
    torch.testing.assert_close(srgb[0, face], torch.tensor([68.0, 1, 84]).expand(int(face.sum()), 3), atol=0.1, rtol=0)
    torch.testing.assert_close(srgb[1, face][0], torch.tensor([33.0, 144, 141]), atol=0.1, rtol=0)
    torch.testing.assert_close(srgb[2], srgb[3])
    torch.testing.assert_close(srgb[2, face][0], torch.tensor([253.0, 231, 37]), atol=0.1, rtol=0)
    assert (colors[:, ~face] == colors[0, ~face][0, 0]).all()
    errors = torch.cat([torch.linspace(0, 2.9, 990), torch.full((10,), 50.0)])
    assert scale_end(errors) == 3
    bar = colorbar(300, 5.0)
    assert bar.shape == (300, 64, 3) and bar[32, 15].tolist()[0] > 240 and bar[265, 15].tolist()[0] < 80


def test_the_error_map_colours_the_face_by_error() -> None:
    template = FaceTemplate.default(0)
    x = template.vertices[:, 0]
    errors = {"mean_face": torch.where(x > 0, 4.0, 0.0), "frames_4": torch.zeros(len(x))}
    size = 96
    picture = error_map(template, errors, size)
    left, right = (cells(picture[:, : 2 * size + 4], size)[0, i].astype(int) for i in (0, 1))
    middle = slice(size // 2 - 5, size // 2 + 5)
    subject_left = left[middle, size // 2 + 10 : size // 2 + 16].mean((0, 1))  # +x lies right in the image
    subject_right = left[middle, size // 2 - 16 : size // 2 - 10].mean((0, 1))
    assert subject_left[0] > subject_left[2] + 60  # yellow: the largest error
    assert subject_right[2] > subject_right[1] + 30  # violet: none
    assert (right[middle, size // 2 + 10 : size // 2 + 16].mean((0, 1)) - subject_right < 40).all()
    with pytest.raises(ValueError, match="errors"):
        error_map(template, {"x": torch.zeros(7)})
    with pytest.raises(ValueError, match="errors"):
        error_map(template, {})


def test_the_colormap_runs_from_violet_to_yellow() -> None:
    ramp = colormap(torch.linspace(-0.5, 1.5, 401))
    torch.testing.assert_close(ramp[0] * 255, torch.tensor([68.0, 1, 84]))
    torch.testing.assert_close(ramp[-1] * 255, torch.tensor([253.0, 231, 37]))
    luminance = ramp @ torch.tensor([0.2126, 0.7152, 0.0722])
    assert (luminance[101:300].diff() > 0).all()


@pytest.mark.parametrize(("value", "expected"), [(0.93, 1), (1.0, 1), (1.01, 1.5), (3.2, 4), (9.1, 10), (0.034, 0.04)])
def test_scales_end_on_round_numbers(value: float, expected: float) -> None:
    assert nice_ceiling(value) == pytest.approx(expected)


def test_saved_pictures_read_back(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    save_image(tmp_path / "new" / "a.png", picture)
    with Image.open(tmp_path / "new" / "a.png") as image:
        np.testing.assert_array_equal(np.asarray(image), picture)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.png"]
