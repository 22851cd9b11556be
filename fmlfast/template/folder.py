"""Reads a template from a folder with a neutral mesh, one mesh per expression, and 68 landmarks."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fmlfast.color import srgb_to_linear
from fmlfast.common.folders import files_in, find_file
from fmlfast.common.text_files import read_text
from fmlfast.ibug68 import EYES_APART
from fmlfast.mesh_io import MILLIMETRES, Obj, read_obj
from fmlfast.template.ambient_occlusion import sky_share
from fmlfast.template.connected_parts import connected_parts
from fmlfast.template.graph import build_graph, fit_expressions, skinning_matrix
from fmlfast.template.jaw_line import jaw_strips
from fmlfast.template.regions import brow_mask, face_mask, lip_mask, neck_mask

NEUTRAL, LANDMARKS, SURFACE, MOUTH_OPENER, OPENING = "neutral.obj", "landmarks.txt", "surface.txt", "jawOpen", 0.35
DETECTOR_POINTS = 478
EYE_REACH, EAR_GAP = 25.0, 4.0  # mm
HAIR_VERTICES = 8  # a part by an eye with fewer vertices is a hair
ORIGIN = [36, 39, 42, 45, 30, 48, 54]
SKIN_COLOR = (0.55, 0.32, 0.225)  # linear
EYE_COLOR, MOUTH_COLOR, LASH_COLOR = (0.70, 0.66, 0.63), (0.045, 0.012, 0.012), (0.02, 0.014, 0.011)


def read_folder(
    path: str | Path, unit: str = "mm", num_nodes: int = 521, with_surface: bool = True
) -> dict[str, NDArray]:
    """Reads a template folder into arrays for `FaceTemplate.from_arrays`, named as in the shipped npz file.

    The folder holds

    - `neutral.obj`: the head, +x its left, +y up, +z out of the face. Quads and polygons are cut into triangles (fans);
      the order of the vertices is kept. Colours after the coordinates of a vertex (`v x y z r g b`) are taken as sRGB,
      as every program writes them. Texture coordinates are kept, one per vertex.
    - one OBJ per expression, named after it (`jawOpen.obj`), with the same vertices, moved. An expression named jawOpen
      opens the mouth for the deformation graph; without it the lips must be apart in the neutral mesh.
    - `landmarks.txt`: 68 lines in iBUG order, each either a vertex id (from 0) or `triangle b0 b1 b2` (a triangle of
      the triangulated neutral mesh, from 0, and barycentrics summing to 1). Lines starting with # are ignored.
    - `surface.txt`, which `fmlfast calibrate` writes: 478 lines of the same form, the surface points that the face
      detector's points stand for. Without it the 68 landmarks alone are fitted.

    The masks are guesses from the landmarks: the largest connected part is skin; other parts near the eyes are eyes, or
    lashes if they are single hairs; the rest is the inside of the mouth; ears lie behind and outside landmarks 0 and
    16; lips, brows, neck and face as in `fmlfast.template.regions`; lids, iris, pupil, teeth and tongue stay empty.

    Args:
        path: the folder.
        unit: of the OBJ files: "mm", "cm", "dm" or "m".
        num_nodes: nodes of the deformation graph.
        with_surface: read `surface.txt` where there is one.

    Raises:
        ValueError: naming the file, if one is missing, malformed, or does not fit the neutral mesh.
    """
    folder = Path(path)
    if unit not in MILLIMETRES:
        raise ValueError(f"unknown unit {unit!r} for {folder}; use {', '.join(MILLIMETRES)}")
    neutral_file, landmarks_file = (_needed(folder, name) for name in (NEUTRAL, LANDMARKS))
    neutral = read_obj(neutral_file)
    scale = MILLIMETRES[unit]
    names, deltas = _read_expressions(folder, neutral, scale)
    landmark_triangles, barycentrics = _read_points(landmarks_file, neutral, 68)
    surface = np.zeros(0, np.int64), np.zeros((0, 3))
    if with_surface and (surface_file := find_file(folder, SURFACE)):
        surface = _read_points(surface_file, neutral, DETECTOR_POINTS)

    vertices = neutral.vertices * scale
    corners = neutral.triangles[landmark_triangles]  # [68, 3]
    marks = (vertices[corners] * barycentrics[:, :, None]).sum(1)
    _check_head(marks, folder, unit)
    shift = marks[ORIGIN].mean(0)
    vertices, marks = vertices - shift, marks - shift
    opened = vertices + (OPENING * deltas[names.index(MOUTH_OPENER)] if MOUTH_OPENER in names else 0.0)
    regions = _guess_regions(neutral.triangles, vertices, marks)
    skin_only = np.flatnonzero(
        (regions["skin"][neutral.triangles] > 0.5).all(1) & (regions["ears"][neutral.triangles] < 0.5).all(1)
    )
    jaw_triangles, jaw_barycentrics = jaw_strips(vertices, neutral.triangles[skin_only], marks)
    nose = corners[30, int(np.argmax(barycentrics[30]))]
    try:
        graph = build_graph(
            torch.from_numpy(opened), torch.from_numpy(neutral.triangles), num_nodes=num_nodes, start=int(nose)
        )
    except ValueError as error:
        raise ValueError(f"{folder / NEUTRAL}: {error}") from error
    skinning = skinning_matrix(graph.skin_indices, graph.skin_weights, num_nodes)
    weights = torch.from_numpy(1.0 - regions["eyes"] - regions["lashes"])
    on_graph = fit_expressions(skinning, torch.from_numpy(deltas), weights)
    return {
        "vertices": vertices,
        "triangles": neutral.triangles,
        "uv": neutral.uv,
        "colors": _colors(neutral, regions),
        "ambient_occlusion": _sky(opened, neutral.triangles),
        "region_names": np.array(list(regions)),
        "regions": 255.0 * np.stack(list(regions.values())),
        "expressions": deltas,
        "expression_names": np.array(names),
        "landmark_triangles": landmark_triangles,
        "landmark_barycentrics": barycentrics,
        "jaw_triangles": skin_only[jaw_triangles],
        "jaw_barycentrics": jaw_barycentrics,
        "surface_triangles": surface[0],
        "surface_barycentrics": surface[1],
        "node_vertices": graph.node_vertices.numpy(),
        "skin_indices": graph.skin_indices.numpy(),
        "skin_weights": graph.skin_weights.numpy(),
        "expression_graph": on_graph.numpy(),
        "mirror": np.zeros(0, np.int64),
    }


def _needed(folder: Path, name: str) -> Path:
    found = find_file(folder, name)
    if found is None:
        raise ValueError(f"{folder / name} is missing; a template folder needs {NEUTRAL} and {LANDMARKS}")
    return found


def _sky(points: NDArray[np.float64], triangles: NDArray[np.integer]) -> NDArray[np.float32]:
    mesh = torch.from_numpy(points).float(), torch.from_numpy(triangles).int()
    return sky_share(*mesh, len(points)).numpy()


def _check_head(marks: NDArray[np.float64], folder: Path, unit: str) -> None:
    """Raises ValueError where the landmarks contradict the unit or the axes."""
    apart = float(np.linalg.norm(marks[45] - marks[36]))
    if not EYES_APART[0] <= apart <= EYES_APART[1]:
        lengths = {name: apart / MILLIMETRES[unit] * scale for name, scale in MILLIMETRES.items()}
        fitting = [name for name, length in lengths.items() if EYES_APART[0] <= length <= EYES_APART[1]]
        hint = f"the files seem to be in {fitting[0]}" if fitting else "scale the head to a person's size"
        named = fitting[0] if fitting else "|".join(MILLIMETRES)
        raise ValueError(
            f"{folder} with unit {unit}: the outer eye corners are {apart:.3g} mm apart; {hint}: name their unit with "
            f"--model.template-unit {named} of train, --unit {named} of calibrate"
        )
    left, up, out = marks[45] - marks[36], marks[17:27].mean(0) - marks[8], marks[30] - marks[[36, 45]].mean(0)
    if min(left[0], up[1], out[2]) <= 0:
        raise ValueError(f"{folder}: export with +x to the subject's left, +y up and +z out of the face")


def _read_expressions(folder: Path, neutral: Obj, scale: float) -> tuple[list[str], NDArray[np.float64]]:
    files = [file for file in files_in(folder, (".obj",)) if file.name.lower() != NEUTRAL]
    if not files:
        raise ValueError(f"{folder} holds no expression; add at least one OBJ beside {NEUTRAL}")
    names = [file.stem for file in files]
    if len({*names}) < len(names):
        raise ValueError(f"{folder} holds two files of one expression: {', '.join(file.name for file in files)}")
    deltas = []
    for file in files:
        moved = read_obj(file)
        if len(moved.vertices) != len(neutral.vertices):
            raise ValueError(f"{file} has {len(moved.vertices)} vertices, but {NEUTRAL} has {len(neutral.vertices)}")
        if not np.array_equal(moved.triangles, neutral.triangles):
            raise ValueError(f"{file} has other faces than {NEUTRAL}; export both with the same vertex order")
        deltas.append((moved.vertices - neutral.vertices) * scale)
    return names, np.stack(deltas)


def _read_points(path: Path, neutral: Obj, count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Reads triangles [N] and barycentrics [N, 3] of `count` surface points."""
    lines = [line.split("#")[0].split() for line in read_text(path).splitlines()]
    rows = [row for row in lines if row]
    if len(rows) != count:
        raise ValueError(f"{path} must hold {count} landmarks, not {len(rows)}")
    triangle_of = np.full(len(neutral.vertices), -1)
    triangle_of[neutral.triangles.ravel()] = np.repeat(np.arange(len(neutral.triangles)), 3)
    triangles, barycentrics = np.zeros(count, np.int64), np.zeros((count, 3))
    for k, row in enumerate(rows):
        try:
            numbers = [int(row[0]), *(float(x) for x in row[1:])]
        except ValueError as error:
            raise ValueError(f"{path}, landmark {k}: {error}") from error
        index, weights = int(numbers[0]), np.array(numbers[1:])
        if len(weights) == 0:
            if not 0 <= index < len(neutral.vertices) or triangle_of[index] < 0:
                raise ValueError(f"{path}, landmark {k}: no triangle of {NEUTRAL} has vertex {index}")
            triangles[k] = triangle_of[index]
            barycentrics[k] = neutral.triangles[triangles[k]] == index
        elif len(weights) == 3 and 0 <= index < len(neutral.triangles):
            if not abs(weights.sum() - 1.0) < 1e-3 or weights.min() < -1e-6:
                raise ValueError(f"{path}, landmark {k}: barycentrics must not be negative and sum to 1")
            triangles[k], barycentrics[k] = index, weights / weights.sum()
        else:
            raise ValueError(
                f"{path}, landmark {k}: write `vertex` or `triangle b0 b1 b2`, triangle below {len(neutral.triangles)}"
            )
    return triangles, barycentrics


def _guess_regions(
    triangles: NDArray[np.int64], vertices: NDArray[np.float64], marks: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    points, landmarks = vertices.astype(np.float32), marks.astype(np.float32)
    part = connected_parts(triangles, len(vertices))
    skin = part == np.bincount(part).argmax()
    eyes, bag, lashes = np.zeros((3, len(vertices)))
    for label in np.setdiff1d(part, part[skin]):
        member = part == label
        center = vertices[member].mean(0)
        gap = min(np.linalg.norm(center - marks[36:42].mean(0)), np.linalg.norm(center - marks[42:48].mean(0)))
        by_eye = lashes if member.sum() < HAIR_VERTICES else eyes
        (by_eye if gap < EYE_REACH else bag)[member] = 1.0
    width, depth = np.abs(marks[[0, 16], 0]).mean(), marks[[0, 16], 2].mean()
    low = marks[[3, 13], 1].mean()
    ears = (np.abs(vertices[:, 0]) > width + EAR_GAP) & (vertices[:, 2] < depth) & (vertices[:, 1] > low) & skin
    surface, ear = skin.astype(np.float32), ears.astype(np.float32)
    neck = neck_mask(points, landmarks) * surface
    masks = {
        "skin": surface,
        "lips": lip_mask(points, landmarks) * surface,
        "brows": brow_mask(points, landmarks) * surface,
        "lids": np.zeros(len(points)),
        "eyes": eyes,
        "iris": np.zeros(len(points)),
        "pupil": np.zeros(len(points)),
        "ears": ear,
        "neck": neck,
        "mouth_bag": bag,
        "teeth": np.zeros(len(points)),
        "tongue": np.zeros(len(points)),
        "lashes": lashes,
        "face": face_mask(points, landmarks, surface, ear, neck),
    }
    return {name: mask.astype(np.float64) for name, mask in masks.items()}


def _colors(neutral: Obj, regions: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    if neutral.colors is not None:
        if neutral.colors.min() < 0 or neutral.colors.max() > 1:
            raise ValueError(f"{NEUTRAL}: vertex colours must lie in [0, 1]; divide 8-bit ones by 255")
        return srgb_to_linear(torch.from_numpy(neutral.colors)).numpy()
    colors = np.tile(SKIN_COLOR, (len(neutral.vertices), 1))
    for name, color in (("eyes", EYE_COLOR), ("mouth_bag", MOUTH_COLOR), ("lashes", LASH_COLOR)):
        colors[regions[name] > 0.5] = color
    return colors
