"""Draws figures of faces: where the errors are, one frame against several, and examples chosen by quantile."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.paper.figures_pass import ALONE, Pass, at_quantile
from benchmarks.paper.figures_store import Figure
from fmlfast.color import linear_to_srgb, srgb_to_linear
from fmlfast.evaluation.table import row_name
from fmlfast.model.lighting import ambient_factor
from fmlfast.renderer import shade_sh, vertex_normals
from fmlfast.template.face_template import FaceTemplate
from fmlfast.visualization.overlay import face_opacity
from fmlfast.visualization.panels import colorbar, draw, error_colors, heat, on_paper, portrait, scale_end, tile

ERROR_QUANTILES = (0.1, 0.5, 0.9)
EXAMPLE_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
TURN = 25.0  # degrees that neutral faces look aside, so that profiles show
WIDTH = 940  # px, at most, of the cells of a page


def error_faces(found: Pass, size: int = 148) -> Figure:
    """Draws distances on the true faces of people at quantiles of the refined error, and their mean."""
    people = _chosen(found, ERROR_QUANTILES)
    frames = [found.typical_frame(person, found.refined) for person in people.values()]
    distances = torch.stack([found.distances(row, frames) for row in found.rows], 1)  # [P, R, V]
    means = torch.stack([found.evaluation.vertex_errors[row] for row in found.rows])  # [R, V]
    template, truth = found.template, found.truth
    top = scale_end(torch.cat([distances.flatten(0, 1), means])[:, template.regions["face"] > 0.5])
    surface = camera_frame(truth.posed, truth.rotation, truth.translation, frames)
    Ks = _scaled(found, frames, size)
    count = len(found.rows)
    colors = error_colors(template, distances.flatten(0, 1), top)
    maps = heat(*_draw(surface.repeat_interleave(count, 0), template, colors, Ks.repeat_interleave(count, 0), size))
    before = torch.stack([_inputs(found, frames, size), _clay(surface, template, Ks, size)], 1)
    cells = torch.cat([before, maps.unflatten(0, (-1, count))], 1)
    surfaces = template.vertices.expand(count, -1, -1)
    average = heat(*portrait(template, surfaces, error_colors(template, means, top), size))
    cells = torch.cat([cells, torch.cat([_empty(2, size), average])[None]])
    errors = {row: found.evaluation.frames[row]["vertex_mm"] for row in found.rows}
    shown = {
        f"{share:.0%}": {"person": person, **{row: float(errors[row][frame]) for row in found.rows}}
        for (share, person), frame in zip(people.items(), frames, strict=True)
    }
    overall = {row: float(found.evaluation.table[row]["vertex_mm"]) for row in found.rows}
    notes = [["", "", *(_mm(line[row]) for row in found.rows)] for line in (*shown.values(), overall)]
    labels = [f"{_quantile(share)}\nquantile" for share in people] + [f"mean over\n{len(found.frames_of)} people"]
    page = tile(cells, ["input", "true geometry", *map(row_name, found.rows)], labels, notes)
    return Figure(
        "error_faces",
        "Where the errors are",
        _beside_scale(page, top),
        f"Distance of the posed geometry from the truth, drawn on the true face, of the people at the "
        f"{_listed(ERROR_QUANTILES)} quantiles of the refined error, each in the frame closest to the person's mean; "
        f"below, the mean over all people and frames on the mean face. Grey is not evaluated; the scale ends at "
        f"{top:g} mm.",
        {"vertex_mm": shown, "mean": overall, "scale_mm": top},
    )


def mono_multi(found: Pass) -> Figure:
    """Draws each frame alone against all frames together, of the person whose gain is the median."""
    alone, joint = (found.people_errors(row, "neutral_mm") for row in (ALONE, found.joint))
    gains = {person: alone[person] - joint[person] for person in alone}
    person = at_quantile(gains, 0.5)
    clip = int(found.truth.clip[found.frames_of[person][0]])
    frames = [frame for frame in found.frames_of[person] if int(found.truth.clip[frame]) == clip]
    size = min(170, WIDTH // (len(frames) + 2))
    alone_shapes, alone_distances = found.neutral_distances(ALONE, frames)
    joint_shapes, joint_distances = found.neutral_distances(found.joint, frames[:1])
    distances = torch.cat([alone_distances, joint_distances])
    template = found.template
    true = found.truth.neutral[clip : clip + 1]
    top = scale_end(distances[:, template.regions["face"] > 0.5])
    shapes = torch.cat([alone_shapes, joint_shapes, true])
    grey = on_paper(*portrait(template, shapes, shapes[..., :0].float(), size, TURN))
    surfaces = true.expand(len(distances), -1, -1)
    maps = heat(*portrait(template, surfaces, error_colors(template, distances, top), size, TURN))
    inputs = _inputs(found, frames, size)
    cells = torch.stack([torch.cat([inputs, _empty(2, size)]), grey, torch.cat([maps, _empty(1, size)])])
    errors = found.evaluation.frames
    together = float(errors[found.joint]["neutral_mm"][frames[0]])
    each = {f"frame {n} alone": float(errors[ALONE]["neutral_mm"][frame]) for n, frame in enumerate(frames, start=1)}
    blank = [""] * (len(frames) + 2)
    page = tile(
        cells,
        [*each, f"all {len(frames)} together", "truth"],
        ("input", "neutral\ngeometry", "distance"),
        [blank, blank, [*(_mm(value) for value in (*each.values(), together)), ""]],
    )
    better = sum(gain > 0 for gain in gains.values()) / len(gains)
    overall = {row: float(found.evaluation.table[row]["neutral_mm"]) for row in (ALONE, found.joint)}
    return Figure(
        "mono_multi",
        "One frame against several",
        _beside_scale(page, top),
        f"The person whose gain from all frames together is the median over {len(gains)} people "
        f"({gains[person]:.2f} mm): neutral geometry of each frame alone and of all of them, not refined, and its "
        f"distance from the true neutral face. All frames together are better for {better:.0%} of people; the means "
        f"are {overall[ALONE]:.2f} mm alone and {overall[found.joint]:.2f} mm together.",
        {"person": person, "gain_mm": gains[person], "alone_mm": each, "together_mm": together}
        | {"better_share": better, "mean_neutral_mm": overall, "scale_mm": top},
    )


def quantiles(found: Pass, own: FaceTemplate, size: int = 164) -> Figure:
    """Draws input, overlay, geometry, truth and distance of people from good to bad; `own` is the model's mesh."""
    people = _chosen(found, EXAMPLE_QUANTILES)
    frames = [found.typical_frame(person, found.refined) for person in people.values()]
    template, truth = found.template, found.truth
    inputs, Ks = _inputs(found, frames, size), _scaled(found, frames, size)
    surface = found.appearance.surface[frames]
    normals = vertex_normals(surface, own.triangles)
    occluded = found.appearance.reflectance[frames] * ambient_factor(own)[:, None]
    colors = shade_sh(occluded, normals, found.appearance.sh[frames])
    opacity = face_opacity(own)[:, None].expand(len(frames), -1, 1)
    drawn, alpha = draw(surface, own.triangles, torch.cat([colors * opacity, opacity, normals], -1), Ks, size)
    shaded, covered, clay = drawn.split([3, 1, 3], -1)
    overlay = linear_to_srgb(shaded + (1 - covered) * srgb_to_linear(inputs))
    true_surface = camera_frame(truth.posed, truth.rotation, truth.translation, frames)
    distances = found.distances(found.refined, frames)
    top = scale_end(distances[:, template.regions["face"] > 0.5])
    maps = heat(*_draw(true_surface, template, error_colors(template, distances, top), Ks, size))
    cells = torch.stack([inputs, overlay, on_paper(clay, alpha), _clay(true_surface, template, Ks, size), maps], 1)
    errors = found.evaluation.frames[found.refined]["vertex_mm"][frames].tolist()
    page = tile(
        cells,
        ("input", "overlay", "geometry", "true geometry", "distance"),
        [f"{_quantile(share)}\n{_mm(error)}" for share, error in zip(people, errors, strict=True)],
    )
    shown = {
        f"{share:.0%}": {"person": person, "vertex_mm": error, "person_mm": found.people_errors(found.refined)[person]}
        for (share, person), error in zip(people.items(), errors, strict=True)
    }
    return Figure(
        "quantiles",
        "Good and bad examples",
        _beside_scale(page, top),
        f"People at the {_listed(EXAMPLE_QUANTILES)} quantiles of the error after refinement, best first, each in the "
        f"frame closest to the person's mean; mm are of the frame that is shown.",
        {"people": shown, "scale_mm": top},
    )


def camera_frame(shapes: Tensor, rotation: Tensor, translation: Tensor, frames: Sequence[int]) -> Tensor:
    """Moves some of shapes [F, V, 3] to the camera frame: [N, V, 3] mm."""
    index = list(frames)
    return (shapes[index] @ rotation[index].mT + translation[index][:, None]).contiguous()


def _chosen(found: Pass, shares: Sequence[float]) -> dict[float, str]:
    errors = found.people_errors(found.refined)
    return {share: at_quantile(errors, share) for share in shares}


def _inputs(found: Pass, frames: Sequence[int], size: int) -> Tensor:
    """Input images [N, size, size, 3] sRGB."""
    images = found.images[list(frames)].permute(0, 3, 1, 2)
    resized = F.interpolate(images, size=(size, size), mode="bicubic", antialias=True)
    return resized.clamp(0, 1).permute(0, 2, 3, 1)


def _scaled(found: Pass, frames: Sequence[int], size: int) -> Tensor:
    """Intrinsics [N, 3, 3] of the frames at another size."""
    Ks = found.Ks[list(frames)].clone()
    Ks[:, :2] *= size / found.images.shape[1]
    return Ks


def _draw(surface: Tensor, template: FaceTemplate, colors: Tensor, Ks: Tensor, size: int) -> tuple[Tensor, Tensor]:
    normals = vertex_normals(surface.contiguous(), template.triangles)
    return draw(surface.contiguous(), template.triangles, torch.cat([colors, normals], -1), Ks, size)


def _clay(surface: Tensor, template: FaceTemplate, Ks: Tensor, size: int) -> Tensor:
    """Grey geometry [N, size, size, 3] sRGB."""
    return on_paper(*_draw(surface, template, surface[..., :0], Ks, size))


def _beside_scale(page: np.ndarray, top: float) -> np.ndarray:
    """A page [H, W, 3] with the scale of its distances, 0 to `top` mm, on the right."""
    return np.concatenate([page, colorbar(len(page), top)], 1)


def _empty(count: int, size: int) -> Tensor:
    """Cells that show nothing."""
    return on_paper(torch.zeros(count, size, size, 3), torch.zeros(count, size, size, 1))


def _mm(value: float) -> str:
    return f"{value:.2f} mm"


def _quantile(share: float) -> str:
    return f"{share * 100:g} %"


def _listed(shares: Sequence[float]) -> str:
    return "/".join(f"{share * 100:g}" for share in shares) + " %"
