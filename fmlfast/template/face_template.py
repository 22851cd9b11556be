"""Holds the face template's mesh, masks, landmarks, expressions and deformation graph, at any subdivision level."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmlfast.camera import project
from fmlfast.common.tensors import independent
from fmlfast.ibug68 import NUM_JAW
from fmlfast.kernels.common.gather import add_rows
from fmlfast.template.assets import load_assets
from fmlfast.template.graph import largest_weights, node_edges, skinning_matrix
from fmlfast.template.jaw_line import select_contour
from fmlfast.template.regions import scalp_mask
from fmlfast.template.subdivision import loop_step, subdivide_points

SINGULAR_FLOOR = 1e-6  # relative; directions of the expressions below it are numerical noise
MOST_LEVELS = 4  # of subdivision, each with four times the triangles


@dataclass(frozen=True)
class FaceTemplate:
    """A neutral head mesh with its masks, landmarks, expressions and deformation graph.

    Frame: mm, +x the subject's left, +y up, +z out of the face, origin at the mean of landmarks 36, 39, 42, 45, 30, 48,
    54. Level l is l Loop subdivisions of the base mesh, whose vertices keep their ids at every level.
    """

    name: str
    level: int
    vertices: Tensor  # [V, 3] float32
    triangles: Tensor  # [T, 3] int32, counter-clockwise seen from outside
    uv: Tensor  # [V, 2] texture atlas, v upwards
    colors: Tensor  # [V, 3] linear reference reflectance
    ambient_occlusion: Tensor  # [V] share of the sky that a vertex sees, the mouth slightly open
    regions: dict[str, Tensor]  # [V] each, 0..1: skin lips lids brows eyes iris pupil ears
    # neck mouth_bag (with gums) teeth tongue lashes face scalp
    expressions: Tensor  # [E, V, 3] displacement at full strength
    expression_names: tuple[str, ...]
    landmark_triangles: Tensor  # [68] int64
    landmark_barycentrics: Tensor  # [68, 3]
    jaw_triangles: Tensor  # [17, C] int64, surface points of the sliding jaw, the static landmark first
    jaw_barycentrics: Tensor  # [17, C, 3]
    surface_triangles: Tensor  # [478] int64, surface points that the face detector's points stand for; or none: [0]
    surface_barycentrics: Tensor  # [478, 3], or [0, 3]
    node_vertices: Tensor  # [G] int64
    skin_indices: Tensor  # [V, 8] int32
    skin_weights: Tensor  # [V, 8] float32, rows sum to 1
    node_edges: Tensor  # [N, 2] int64, nodes that skin a common base vertex
    expression_graph: Tensor  # [3G, E] expressions on the nodes, node-major, xyz interleaved
    mirror: Tensor  # [V0] int64, each base vertex's partner on the other side, itself in the middle; or none: [0]
    fingerprint: str  # 16 hex digits of the base mesh; codes fit only templates with the same one
    subdivision: tuple[Tensor, ...] = field(default=(), repr=False)  # sparse matrices, coarse to fine

    def __repr__(self) -> str:
        counts = f"{len(self.vertices)} vertices, {len(self.triangles)} triangles, {len(self.expressions)} expressions"
        return f"FaceTemplate({self.name}, level {self.level}: {counts}; {self.fingerprint})"

    @staticmethod
    def default(level: int = 2) -> "FaceTemplate":
        """Loads the template that ships with fmlfast (from MakeHuman's CC0 data), at level 0, 1 or 2; cached.

        Raises:
            ValueError: if `level` is not 0, 1 or 2.
        """
        if level not in (0, 1, 2):
            raise ValueError(f"level must be 0, 1 or 2, not {level}")
        return _default(level)

    @staticmethod
    @independent
    def from_folder(path: str | Path, unit: str = "mm", level: int = 0, num_nodes: int = 521) -> "FaceTemplate":
        """Reads a template from a folder of your own head, and subdivides it `level` times (Loop).

        Format of the folder: see `fmlfast.template.folder.read_folder`. Raises ValueError, naming the file, if one is
        missing, malformed, or does not fit the neutral mesh.
        """
        from fmlfast.template.folder import NEUTRAL, read_folder

        if not 0 <= level <= MOST_LEVELS:
            raise ValueError(f"level must lie in 0..{MOST_LEVELS}, got {level} for {path}")
        template = FaceTemplate.from_arrays(Path(path).resolve().name, read_folder(path, unit, num_nodes))
        try:
            for _ in range(level):
                template = template.subdivided()
        except ValueError as error:
            raise ValueError(f"{Path(path) / NEUTRAL}: {error}") from error
        return template

    @staticmethod
    @independent
    def from_arrays(name: str, arrays: Mapping[str, NDArray]) -> "FaceTemplate":
        """Builds a level-0 template from arrays named as in the shipped npz file (see tools/build_template.py)."""

        def tensor(key: str, dtype: torch.dtype) -> Tensor:
            return torch.from_numpy(np.array(arrays[key])).to(dtype)

        regions = tensor("regions", torch.float32) / 255.0  # [R, V]
        skin_indices, skin_weights = tensor("skin_indices", torch.int32), tensor("skin_weights", torch.float32)
        template = FaceTemplate(
            name=name,
            level=0,
            vertices=tensor("vertices", torch.float32),
            triangles=tensor("triangles", torch.int32),
            uv=tensor("uv", torch.float32),
            colors=tensor("colors", torch.float32),
            ambient_occlusion=tensor("ambient_occlusion", torch.float32),
            regions={str(key): mask for key, mask in zip(arrays["region_names"], regions, strict=True)},
            expressions=tensor("expressions", torch.float32),
            expression_names=tuple(str(key) for key in arrays["expression_names"]),
            landmark_triangles=tensor("landmark_triangles", torch.int64),
            landmark_barycentrics=tensor("landmark_barycentrics", torch.float32),
            jaw_triangles=tensor("jaw_triangles", torch.int64),
            jaw_barycentrics=tensor("jaw_barycentrics", torch.float32),
            surface_triangles=tensor("surface_triangles", torch.int64),
            surface_barycentrics=tensor("surface_barycentrics", torch.float32),
            node_vertices=tensor("node_vertices", torch.int64),
            skin_indices=skin_indices,
            skin_weights=skin_weights,
            node_edges=node_edges(skin_indices, skin_weights, len(arrays["node_vertices"])),
            expression_graph=tensor("expression_graph", torch.float32),
            mirror=tensor("mirror", torch.int64),
            fingerprint="",
        )
        points, marks = template.vertices.numpy(), template.landmarks(template.vertices).numpy()
        scalp = template.regions["skin"] * torch.from_numpy(scalp_mask(points, marks)).float()
        regions = {**template.regions, "scalp": scalp}
        return replace(template, regions=regions, fingerprint=_fingerprint(template))

    def to(self, device: torch.device | str) -> "FaceTemplate":
        """Copies the template's tensors to another device."""
        moved: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                moved[item.name] = value.to(device)
        regions = {name: mask.to(device) for name, mask in self.regions.items()}
        return replace(self, **moved, regions=regions, subdivision=tuple(m.to(device) for m in self.subdivision))

    @property
    def nodes(self) -> Tensor:
        """Returns the positions [G, 3] of the graph nodes, mm."""
        return self.vertices[self.node_vertices]

    @property
    def mouth_and_lashes(self) -> Tensor:
        """Marks the vertices [V] inside the mouth (its walls, gums, teeth, tongue) and of the lashes, bool."""
        return torch.stack([self.regions[name] for name in ("mouth_bag", "teeth", "tongue", "lashes")]).sum(0) > 0.5

    @property
    def vertex_areas(self) -> Tensor:
        """Computes the surface area of each vertex [V], mm2: a third of its triangles'."""
        corners = self.vertices[self.triangles.long()]  # [T, 3, 3]
        area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1) / 6
        table = area.new_zeros(len(self.vertices), 1)
        return add_rows(table, self.triangles.long().flatten(), area.repeat_interleave(3)[:, None])[:, 0]

    def subdivide(self, values: Tensor) -> Tensor:
        """Subdivides a field [..., V0, C] on the base mesh to this level, [..., V, C]; linear, differentiable."""
        for matrix in self.subdivision:
            if values.shape[-2] != matrix.shape[1]:
                raise ValueError(f"the field must have {self.subdivision[0].shape[1]} vertices, not {values.shape[-2]}")
            values = _apply(matrix.to(values.device), values)
        return values

    def on_level(self, values: Tensor) -> Tensor:
        """Converts a field [..., U, C] on any level of the template to this one, [..., V, C].

        Finer fields keep the values at the vertices that both levels have, coarser ones are subdivided.
        """
        for matrix in self.subdivision:
            if values.shape[-2] == matrix.shape[1]:
                values = _apply(matrix.to(values.device), values)
        count = len(self.vertices)
        if values.shape[-2] < count:
            raise ValueError(f"a field of {values.shape[-2]} vertices is on no level of template {self.name}")
        return values if values.shape[-2] == count else values[..., :count, :]

    def landmarks(self, vertices: Tensor) -> Tensor:
        """Interpolates the 68 landmarks [..., 68, 3] of vertices [..., V, 3] of this level."""
        if vertices.shape[-2] != len(self.vertices):
            raise ValueError(f"vertices must be [..., {len(self.vertices)}, 3], not {list(vertices.shape)}")
        corners = vertices[..., self.triangles.long()[self.landmark_triangles], :]  # [..., 68, 3, 3]
        return (corners * self.landmark_barycentrics[:, :, None]).sum(dim=-2)

    def surface_points(
        self,
        vertices: Tensor,  # [..., V, 3]
        ids: Tensor,  # [P] int64
    ) -> Tensor:  # [..., P, 3]
        """Interpolates the surface points that the face detector's points `ids` stand for."""
        corners = vertices[..., self.triangles.long()[self.surface_triangles[ids]], :]  # [..., P, 3, 3]
        return (corners * self.surface_barycentrics[ids][:, :, None]).sum(dim=-2)

    def slide_landmarks(
        self,
        vertices: Tensor,  # [F, V, 3] mm, camera frame
        Ks: Tensor,  # [F, 3, 3] px
    ) -> Tensor:  # [F, 68, 3] mm, camera frame
        """Interpolates the 68 landmarks with the jaw line on the current silhouette, where detectors place it.

        The choice of the silhouette has no gradient. Raises ValueError when V is not the template's.
        """
        points = self.landmarks(vertices)
        corners = self.triangles.long()[self.jaw_triangles]  # [17, C, 3]
        strips = (vertices[:, corners] * self.jaw_barycentrics[..., None]).sum(dim=3)  # [F, 17, C, 3]
        with torch.no_grad():
            strips_uv = project(strips.flatten(1, 2), Ks).unflatten(1, corners.shape[:2])
            index = select_contour(strips_uv, project(points[:, NUM_JAW:], Ks).mean(dim=1))
        jaw = strips.gather(2, index[:, :, None, None].expand(-1, -1, 1, 3))[:, :, 0]
        return torch.cat([jaw, points[:, NUM_JAW:]], dim=1)

    def landmark_part(self) -> "FaceTemplate":
        """Extracts the few triangles that landmarks, jaw strips and surface points lie on as a template of this level.

        Its nodes are still those of the whole mesh; `node_vertices` index the whole mesh's vertices.
        """
        wanted = torch.cat([self.landmark_triangles, self.jaw_triangles.flatten(), self.surface_triangles])
        used, places = torch.unique(wanted, return_inverse=True)
        vertices, corners = torch.unique(self.triangles.long()[used], return_inverse=True)
        landmarks, jaw, surface = places.split(
            [len(self.landmark_triangles), self.jaw_triangles.numel(), len(self.surface_triangles)]
        )
        return replace(
            self,
            vertices=self.vertices[vertices],
            triangles=corners.int(),
            uv=self.uv[vertices],
            colors=self.colors[vertices],
            ambient_occlusion=self.ambient_occlusion[vertices],
            regions={name: mask[vertices] for name, mask in self.regions.items()},
            expressions=self.expressions[:, vertices].contiguous(),
            landmark_triangles=landmarks,
            jaw_triangles=jaw.view_as(self.jaw_triangles),
            surface_triangles=surface,
            skin_indices=self.skin_indices[vertices],
            skin_weights=self.skin_weights[vertices],
            mirror=self.mirror[:0],
            subdivision=(),
        )

    def complement_basis(self, rank: int | None = None) -> Tensor:
        """Computes the orthonormal basis Q [3G, r] that the orthogonal complement removes (SVD).

        OC(theta) = theta - Q Q^T theta, with Q the leading singular vectors of the expressions on the graph.

        Args:
            rank: r, number of directions; None takes all (the paper's setting).

        Raises:
            ValueError: if `rank` is not between 0 and the number of independent expressions.
        """
        u, s, _ = torch.linalg.svd(self.expression_graph.double(), full_matrices=False)
        full = int((s > SINGULAR_FLOOR * s[0]).sum())
        rank = full if rank is None else rank
        if not 0 <= rank <= full:
            raise ValueError(
                f"rank must lie between 0 and {full}, the number of independent expressions, not {rank}: set "
                "--model.complement-rank, None for all"
            )
        return u[:, :rank].float().contiguous()

    def subdivided(self) -> "FaceTemplate":
        """Returns the template after one more Loop subdivision."""
        step = loop_step(len(self.vertices), self.triangles)
        skinning = skinning_matrix(self.skin_indices, self.skin_weights, len(self.node_vertices))
        indices, weights = largest_weights(torch.sparse.mm(step.matrix, skinning), self.skin_indices.shape[1])
        landmarks = subdivide_points(self.landmark_triangles, self.landmark_barycentrics)
        jaw = subdivide_points(self.jaw_triangles, self.jaw_barycentrics)
        surface = subdivide_points(self.surface_triangles, self.surface_barycentrics)
        return replace(
            self,
            level=self.level + 1,
            vertices=_apply(step.matrix, self.vertices),
            triangles=step.triangles.int(),
            uv=_apply(step.matrix, self.uv),
            colors=_apply(step.matrix, self.colors),
            ambient_occlusion=_apply(step.matrix, self.ambient_occlusion[:, None])[:, 0],
            regions={name: _apply(step.matrix, mask[:, None])[:, 0] for name, mask in self.regions.items()},
            expressions=_apply(step.matrix, self.expressions),
            landmark_triangles=landmarks[0],
            landmark_barycentrics=landmarks[1],
            jaw_triangles=jaw[0],
            jaw_barycentrics=jaw[1],
            surface_triangles=surface[0],
            surface_barycentrics=surface[1],
            skin_indices=indices,
            skin_weights=weights,
            subdivision=(*self.subdivision, step.matrix),
        )


@cache
@independent
def _default(level: int) -> FaceTemplate:
    return FaceTemplate.from_arrays("makehuman-face", load_assets()) if level == 0 else _default(level - 1).subdivided()


def _apply(matrix: Tensor, values: Tensor) -> Tensor:
    """Multiplies a sparse matrix [V1, V0] by values [..., V0, C]."""
    flat = values.movedim(-2, 0)  # [V0, ..., C]
    return torch.sparse.mm(matrix, flat.flatten(1)).unflatten(1, flat.shape[1:]).movedim(0, -2).contiguous()


def _fingerprint(template: FaceTemplate) -> str:
    digest = hashlib.sha256()
    for array in (template.vertices, template.triangles, template.expressions, template.node_vertices):
        digest.update(array.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
