"""Writes a person's head as files that other programs open: textured, with named expressions, still or moving."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmlfast.mesh_io import SUFFIXES as MESH_SUFFIXES
from fmlfast.mesh_io.glb import POSITION_TOLERANCE, write_glb
from fmlfast.mesh_io.mesh import Mesh, check_texture, unit_normals
from fmlfast.mesh_io.obj import write_obj
from fmlfast.mesh_io.ply import write_ply
from fmlfast.mesh_io.scene import Animation, Node, Scene, quaternions
from fmlfast.mesh_io.usdz import write_usdz
from fmlfast.reconstruction.gaze import Eye, find_eyes
from fmlfast.reconstruction.head import Head, Motion
from fmlfast.template.arkit_names import arkit_order
from fmlfast.template.parts import TemplatePart, split_template

SUFFIXES = (*MESH_SUFFIXES, ".usdz")
METRES = 1e-3  # per millimetre
CHUNK = 8  # expressions whose normals are computed at once; bounds the memory
FLIP = np.diag([1.0, -1.0, -1.0])  # camera +y down, +z forward -> +y up, looking along -z
ROOT = "face"


def write_head(path: str | Path, head: Head, *, unlit: bool = False, motion: Motion | None = None) -> None:
    """Writes a head as GLB, USDZ, OBJ or PLY, by the suffix of `path`, whole or not at all.

    .glb and .usdz (needs the extra `usd`) are in metres and hold separate nodes under the root `face`: `head`,
    `eye_left`, `eye_right`, `teeth_upper`, `teeth_lower`, `tongue` and `lashes`, as far as the template's masks name
    them. Every node that an expression moves has all expressions as morph targets (blend shapes), in ARKit's order
    (`ARKIT_NAMES`), with the same list of names; displacements below .001 mm are left out. Eyeballs look around
    by rotation of their nodes, whose origins are the eyeballs' centres, so eyeLook* move only the lids there; GLB names
    the rotation (x, y, z, w) at weight 1 of each in the node's `extras.gaze`.

    .obj (with .mtl and .png beside it, where there is a texture) and .ply (vertex colours) are in millimetres and hold
    the neutral head as one mesh, in the template's order of vertices.

    Args:
        path: an existing file is replaced.
        head: whose texture, or reflectance without one, becomes the base colour.
        unlit: show colours as they are; else they are lit, as rough and not metal. Does nothing in PLY. Without a
            texture, lit GLB files name no material, as trimesh shows vertex colours only so.
        motion: animates the weights, the eyes' rotations and the root: +y up, camera at the origin looking along -z;
            .glb and .usdz only. The root rests where the motion begins.

    Raises:
        ValueError: unknown suffix, an array that disagrees with the template or is not finite, or motion where the
            format has none.
        ImportError: .usdz without the extra `usd`.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: unknown format of heads; end the name in one of {', '.join(SUFFIXES)}")
    template, texture = head.template, None if head.texture is None else check_texture(head.texture)
    if len(head.neutral) != len(template.vertices):
        raise ValueError(f"the head has {len(head.neutral)} vertices, its template {len(template.vertices)}")
    uv = None if texture is None or suffix == ".ply" else template.uv  # readers would expect a texture
    whole = Mesh.of(head.neutral, template.triangles, head.reflectance, uv)
    if suffix not in (".glb", ".usdz"):
        if motion is not None:
            raise ValueError(f"{path}: {suffix} files do not move; write the motion as .glb or .usdz")
        if suffix == ".obj":
            write_obj(path, whole, texture, unlit)
        else:
            write_ply(path, whole)
        return
    scene = _scene(head, whole, texture, unlit, motion)
    (write_glb if suffix == ".glb" else write_usdz)(path, scene)


def _scene(head: Head, whole: Mesh, texture: NDArray[np.uint8] | None, unlit: bool, motion: Motion | None) -> Scene:
    template = head.template
    order = arkit_order(template.expression_names)
    parts = split_template(template)
    eyes = find_eyes(template, parts)
    displacements = template.expressions[order].detach().cpu().numpy()  # [M, V, 3] mm
    changes = _normal_changes(whole, displacements)
    nodes = []
    for part in parts:
        moved, turned = displacements[:, part.vertices], changes[:, part.vertices]
        eye = eyes.get(part.name)
        if eye is not None:  # what the rotation of the node does, no morph target must do again
            looks = [place for place, index in enumerate(order) if index in eye.rotations]
            moved[looks], turned[looks] = 0.0, 0.0
        nodes.append(_node(head, whole, part, eye, moved, turned, texture is not None))
    names = tuple(template.expression_names[i] for i in order)
    animation = None if motion is None else _animation(motion, template.expression_names, order, eyes)
    return Scene(ROOT, tuple(nodes), names, texture, unlit, animation)


def _node(
    head: Head,
    whole: Mesh,
    part: TemplatePart,
    eye: Eye | None,
    moved: NDArray[np.float32],  # [M, n, 3] mm
    turned: NDArray[np.float32],  # [M, n, 3]
    textured: bool,
) -> Node:
    ids = part.vertices
    assert whole.colors is not None
    mesh = Mesh(
        points=whole.points[ids] * np.float32(METRES),
        triangles=part.triangles,
        normals=whole.normals[ids],
        colors=None if textured else whole.colors[ids],
        uv=whole.uv[ids] if textured and whole.uv is not None else None,
    )
    pivot: tuple[float, float, float] = (0.0, 0.0, 0.0)
    extras: dict[str, object] = {}
    if eye is not None:
        x, y, z = (eye.center_in(head.template, head.neutral) * METRES).tolist()
        pivot = (x, y, z)
        turns = {head.template.expression_names[i]: quaternions(r[None])[0].tolist() for i, r in eye.rotations.items()}
        extras = {"gaze": turns} if turns else {}
    displacements = moved * np.float32(METRES)
    moves = bool((np.square(displacements).sum(-1) > POSITION_TOLERANCE**2).any())
    return Node(
        part.name,
        mesh,
        pivot,
        displacements if moves else None,
        turned if moves else None,
        double_sided=part.name == "lashes",  # single triangles
        extras=extras,
    )


def _normal_changes(
    whole: Mesh,
    displacements: NDArray[np.float32],  # [M, V, 3] mm
) -> NDArray[np.float32]:  # [M, V, 3]
    """Computes normals under each expression less those of the neutral head."""
    changes = np.empty_like(displacements)
    for start in range(0, len(displacements), CHUNK):
        moved = whole.points + displacements[start : start + CHUNK]
        changes[start : start + CHUNK] = unit_normals(moved, whole.triangles) - whole.normals
    return changes


def _animation(motion: Motion, names: tuple[str, ...], order: list[int], eyes: dict[str, Eye]) -> Animation:
    times = np.asarray(motion.times, np.float64)
    frames = len(times)
    shapes = [list(x.shape) for x in (motion.expression, motion.rotation, motion.translation)]
    if frames == 0 or shapes != [[frames, len(names)], [frames, 3, 3], [frames, 3]]:
        raise ValueError(
            f"a motion of {frames} frames needs expression [{frames}, {len(names)}], rotation [{frames}, 3, 3] and "
            f"translation [{frames}, 3], got {shapes}"
        )
    expression, rotation, translation = (_finite(x) for x in (motion.expression, motion.rotation, motion.translation))
    if not np.isfinite(times).all() or times[0] < 0 or (np.diff(times) <= 0).any():
        raise ValueError("the times of a motion must be finite, not negative, and rise from frame to frame")
    return Animation(
        times=times,
        weights=expression[:, order].astype(np.float32),
        rotation=(FLIP @ rotation).astype(np.float32),
        translation=(translation @ FLIP * METRES).astype(np.float32),
        turns={name: eye.turned(torch.from_numpy(expression)).astype(np.float32) for name, eye in eyes.items()},
    )


def _finite(values: Tensor) -> NDArray[np.float64]:
    array = values.detach().double().cpu().numpy()
    if not np.isfinite(array).all():
        raise ValueError("a motion must be finite; leave out the frames that have no face")
    return array
