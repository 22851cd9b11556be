"""Writes scenes as GLB (glTF 2.0 binary), without any extension but KHR_materials_unlit."""

from pathlib import Path
from typing import Any

import numpy as np

from fmlfast.common.atomic import atomic_path
from fmlfast.mesh_io.gltf import VERTICES, GltfDocument
from fmlfast.mesh_io.scene import Animation, Node, Scene, quaternions

POSITION_TOLERANCE = 1e-6  # metres; morph targets leave out vertices that move less
NORMAL_TOLERANCE = 1e-3  # of unit length: 0.06 degrees
ROUGHNESS = 0.6
UNLIT = "KHR_materials_unlit"


def write_glb(path: Path, scene: Scene) -> None:
    """Writes a scene; lengths in metres, +y up, vertex colours linear as glTF 2.0 demands.

    All meshes that move have all morph targets, in one order, with their names in `extras.targetNames`. Meshes that
    show the colours of their vertices get no material, as trimesh shows no such colours beside one, unless unlit.
    """
    document = GltfDocument()
    materials = _materials(document, scene)
    ids = {node.name: _add_node(document, node, scene.morph_names, materials) for node in scene.nodes}
    root: dict[str, Any] = {"name": scene.name, "children": list(ids.values())}
    if scene.animation is not None:  # at rest where the motion begins, so that viewers frame the head as it will be
        root["rotation"] = quaternions(scene.animation.rotation[:1])[0].tolist()
        root["translation"] = scene.animation.translation[0].tolist()
    top = document.add("nodes", root)
    document.json |= {"scene": document.add("scenes", {"nodes": [top]})}
    if scene.animation is not None:
        moving = [ids[node.name] for node in scene.nodes if node.displacements is not None]
        _add_animation(document, scene.animation, top, moving, ids)
    data = document.to_glb()
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def _materials(document: GltfDocument, scene: Scene) -> dict[bool, int]:
    """Adds the materials that the meshes need, and returns their indices by `double_sided`."""
    if scene.texture is None and not scene.unlit:
        return {}
    surface: dict[str, Any] = {"metallicFactor": 0.0, "roughnessFactor": ROUGHNESS}
    if scene.texture is not None:
        surface["baseColorTexture"] = {"index": document.texture(scene.texture)}
    if scene.unlit:
        document.json["extensionsUsed"] = [UNLIT]
    found = {}
    for double_sided in sorted({node.double_sided for node in scene.nodes}):
        material: dict[str, Any] = {"name": "double_sided" if double_sided else "surface"}
        material |= {"pbrMetallicRoughness": surface}
        if double_sided:
            material["doubleSided"] = True
        if scene.unlit:
            material["extensions"] = {UNLIT: {}}
        found[double_sided] = document.add("materials", material)
    return found


def _add_node(document: GltfDocument, node: Node, morph_names: tuple[str, ...], materials: dict[bool, int]) -> int:
    mesh = node.mesh
    local = mesh.points - np.array(node.pivot, np.float32)
    attributes = {
        "POSITION": document.accessor(local, VERTICES, bounds=True),
        "NORMAL": document.accessor(mesh.normals, VERTICES),
    }
    if mesh.uv is not None:
        flipped = np.stack([mesh.uv[:, 0], 1 - mesh.uv[:, 1]], axis=1)
        attributes["TEXCOORD_0"] = document.accessor(flipped, VERTICES)
    if mesh.colors is not None:
        attributes["COLOR_0"] = document.accessor(mesh.colors, VERTICES)
    primitive: dict[str, Any] = {
        "attributes": attributes,
        "indices": document.indices(mesh.triangles, len(mesh.points)),
    }
    if node.double_sided in materials:
        primitive["material"] = materials[node.double_sided]
    item: dict[str, Any] = {"name": node.name, "primitives": [primitive]}
    if node.displacements is not None and node.normal_changes is not None:
        primitive["targets"] = [
            {
                "POSITION": document.sparse(moved, POSITION_TOLERANCE, bounds=True),
                "NORMAL": document.sparse(turned, NORMAL_TOLERANCE),
            }
            for moved, turned in zip(node.displacements, node.normal_changes, strict=True)
        ]
        item |= {"weights": [0.0] * len(morph_names), "extras": {"targetNames": list(morph_names)}}
    entry: dict[str, Any] = {"name": node.name, "mesh": document.add("meshes", item)}
    if any(node.pivot):
        entry["translation"] = list(node.pivot)
    if node.extras:
        entry["extras"] = node.extras
    return document.add("nodes", entry)


def _add_animation(
    document: GltfDocument, motion: Animation, root: int, moving: list[int], ids: dict[str, int]
) -> None:
    """Adds one animation: pose of the root, turns of nodes, and the weights of all meshes that move."""
    times = document.accessor(motion.times.astype(np.float32), bounds=True)
    samplers: list[dict[str, Any]] = []
    channels: list[dict[str, Any]] = []

    def play(values: np.ndarray, path: str, nodes: list[int]) -> None:
        samplers.append({"input": times, "output": document.accessor(values), "interpolation": "LINEAR"})
        for node in nodes:
            channels.append({"sampler": len(samplers) - 1, "target": {"node": node, "path": path}})

    play(quaternions(motion.rotation), "rotation", [root])
    play(motion.translation.astype(np.float32), "translation", [root])
    for name, turns in motion.turns.items():
        play(quaternions(turns), "rotation", [ids[name]])
    if moving:
        play(motion.weights.astype(np.float32).ravel(), "weights", moving)
    document.add("animations", {"name": "motion", "channels": channels, "samplers": samplers})
