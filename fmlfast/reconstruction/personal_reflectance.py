"""Fits a free reflectance of every vertex to the frames of a person: brows, lips, beards, moles.

Geometry and pose are fixed, so with the light fixed too the best layer solves a linear system; a robust cost and the
light are updated in turns with it. How it was found: docs/refinement.md.
"""

from dataclasses import replace

import torch
from torch import Tensor

from fmlfast.camera import project
from fmlfast.common.graph_laplacian import GraphLaplacian
from fmlfast.common.tensors import exact
from fmlfast.data.frames import Frames
from fmlfast.kernels.common.topology import unique_edges
from fmlfast.kernels.normals import vertex_normals
from fmlfast.kernels.photometric import sample_bilinear
from fmlfast.kernels.shading import sh_basis
from fmlfast.model.codes import Codes
from fmlfast.model.config import load_template
from fmlfast.model.fml import FML
from fmlfast.model.lighting import ambient_factor
from fmlfast.model.vertex_weights import photometric_region, rim_distance, vertex_weights
from fmlfast.template.face_template import FaceTemplate
from fmlfast.template.regions import BROW_LIFT, polyline_distance, smoothstep

SMALLEST_EDGE = 0.8  # px; a mesh with shorter edges shows nothing more
FINEST = 2  # level of the default template
NARROW, WIDE = 0.3, 0.9  # scales of the robust cost, shares of the skin's colour; wide where hair and lips are
SIZE = 0.015  # weight of the squared layer over the skin's colour, per mm2; data weigh 1 per px2
EDGES = 2.0  # weight of the squared differences along mesh edges, px2
RIM = 1.0, 2.5  # px from eyeballs and teeth up to which pixels, which mix them with skin, count nothing, and all
EYES = 0.5  # weight of the eyes, whose gaze no model follows exactly
FIELDS, FIELD_LENGTH = 60, 22.0  # smooth factors of the light: how many, and their length in mm
SHADOW_NOISE, SHADOW_OUTLIER = 20.0, 0.25  # px2 that weigh as much as their prior; scale of their robust cost
UNSURE = 0.5  # share of the weight that brows, lips and beards lose as witnesses of the light
LIGHT_OUTLIER = 0.2  # of the skin's colour, scale of the robust share of light in the layer
ROUNDS, ITERATIONS = 4, 40  # of light and robust weights; of conjugate gradients
DARKEST, LIGHTEST = 0.004, 0.98  # reflectance
LEAST_SHADE = 0.05  # of the mean one, below which a vertex tells nothing
LEAST_AREA = 1e-3  # mm2, of vertices without triangles, as other head models have them


@exact
@torch.no_grad()
def fit_detail(
    model: FML,
    frames: Frames,
    codes: Codes,
) -> Codes:
    """Fits the reflectance's detail, and the light with it, to `frames`; geometry, pose and codes are kept.

    Minimises, over the reflectance of each vertex, the squared difference of colours, weighted by the pixels that a
    vertex covers and robustly (Geman-McClure: glasses, hands, highlights and cast shadows have no say), plus the
    squared distance from the learned reflectance and the squared differences along edges: conjugate gradients. The nine
    shading directions of plain skin are projected out. Vertices that no frame sees stay at the learned reflectance,
    but for a smooth transition.

    Args:
        model: its parameters are not changed.
        frames: of the subjects of `codes`, in any resolution: the sharper, the finer the mesh of the detail.
        codes: refined already; a detail that they have is replaced.

    Returns:
        The codes with another detail, light and skin tone.
    """
    codes = replace(codes, detail=codes.detail[:, :0])
    system, camera = _System(model, frames, codes), model.camera_vertices(codes).flatten(0, 1)
    for _ in range(ROUNDS):
        light = model.fit_light_times_tone(frames, camera, model.pattern(codes))
        codes = replace(codes, detail=system.solve(codes.detail, light))
    return model.fit_light(frames, codes)


class _System:
    """Holds what stays fixed: the frames' colours at the vertices, and the learned reflectance there."""

    def __init__(self, model: FML, frames: Frames, codes: Codes) -> None:
        self.model, size = model, frames.images.shape[-1]
        Ks = frames.Ks.flatten(0, 1)
        scale = Ks[:, 0, 0, None] / codes.translation.flatten(0, 1)[:, 2:]  # [F, 1] px per mm
        self.mesh = mesh = _mesh(model, float(scale.max()))
        camera = model.camera_vertices(codes, mesh).flatten(0, 1)
        normals = vertex_normals(camera, mesh.triangles, model.backend)
        self.harmonics = sh_basis(normals) * ambient_factor(mesh)[:, None]  # [F, V, 9]
        self.colors = sample_bilinear(frames.linear.flatten(0, 1), project(camera, Ks))  # [F, V, 3]
        region = photometric_region(mesh)
        visible = vertex_weights(region, mesh.triangles, camera, normals, Ks, size, "zbuffer", model.backend)
        facing = -(normals * torch.nn.functional.normalize(camera, dim=-1)).sum(-1)  # [F, V]
        self.area = mesh.vertex_areas  # [V] mm2
        clear = smoothstep(rim_distance(mesh) * scale, *RIM)  # [F, V]
        trust = clear * (1 - (1 - EYES) * mesh.regions["eyes"])
        self.pixels = visible * facing.clamp(min=0.0) * trust * self.area * scale.square()  # [F, V] px2
        self.pixels = self.pixels * frames.mask.flatten()[:, None]
        self.learned = model.pattern(codes, mesh)  # [B, V, 3]
        self.lightest = LIGHTEST / codes.tone.exp().clamp(min=1.0)[:, None]  # [B, 1, 3]
        face = mesh.regions["face"] * self.area
        self.face = (face / face.sum())[:, None]  # [V, 1]
        self.skin = (self.face * self.learned).sum(1, keepdim=True)  # [B, 1, 3]
        varied = _varied(mesh)
        self.outlier = NARROW + (WIDE - NARROW) * varied  # [V]
        self.plain = (1 - varied) * mesh.on_level(model.light_weights[:, None])[:, 0].clamp(max=1.0)  # [V]
        self.fields = _smooth_fields(mesh)  # [V, K]
        self.witness = (1 - UNSURE * varied) * self.pixels.unflatten(0, frames.mask.shape).sum(1)  # [B, V] of the light
        span = model.face.light_span
        self.span = None if span is None else mesh.on_level(span) / self.skin.mean((0, 1))[:, None, None]  # [3, V, 9]
        edges = unique_edges(mesh.triangles)
        edges = edges[~mesh.mouth_and_lashes[edges].any(1)]  # lips and mouth share nothing
        self.laplacian = GraphLaplacian(edges, len(self.area))

    def solve(
        self,
        detail: Tensor,  # [B, V, 3], or [B, 0, 3]
        sh: Tensor,  # [B, M, 9, 3] times skin tone
    ) -> Tensor:  # [B, V, 3]
        """Solves for the detail under light `sh`, with the robust weights of the residuals that `detail` leaves."""
        subjects, count = sh.shape[:2]
        if not detail.shape[1]:
            detail = torch.zeros_like(self.learned)
        shade = self.harmonics @ sh.flatten(0, 1)  # [F, V, 3]
        seen = (self.pixels[..., None] > 0) * self.face
        unit = (shade * seen).sum(1, keepdim=True) / seen.sum(1, keepdim=True).clamp(min=1e-6)  # [F, 1, 3]
        unit = unit.clamp(min=1e-3)
        tall = (subjects, count)
        shade = (shade / unit).clamp(min=LEAST_SHADE).unflatten(0, tall)
        seen_colors = self.colors.unflatten(0, tall) / (unit.unflatten(0, tall) * self.skin[:, None])
        known = ((self.learned + detail) / self.skin)[:, None]
        shade = shade * self._shadows(seen_colors / (shade * known).clamp(min=0.02) - 1)
        residual = seen_colors - shade * (self.learned / self.skin)[:, None]  # [B, M, V, 3] of the skin's colour
        left = (residual / shade - (detail / self.skin)[:, None]).square().mean(-1)  # [B, M, V]
        weight = self.pixels.unflatten(0, tall) / (1 + left / self.outlier.square()).square()
        data = (weight[..., None] * shade.square()).sum(1)
        right = (weight[..., None] * shade * residual).sum(1)
        size = (SIZE * self.area.clamp(min=LEAST_AREA))[:, None]
        diagonal, right, start = (x.transpose(0, 1).flatten(1) for x in (data + size, right, detail / self.skin))
        relative = self.laplacian.solve(diagonal, EDGES, right, start, ITERATIONS)
        relative = relative.unflatten(1, (subjects, 3)).transpose(0, 1)
        detail = (relative - self._light_share(relative) * data / (data + size)) * self.skin  # seen vertices only
        return (self.learned + detail).clamp(min=DARKEST).minimum(self.lightest) - self.learned

    def _shadows(
        self,
        excess: Tensor,  # [B, M, V, 3]
    ) -> Tensor:  # [B, M, V, 1]
        """Fits a smooth factor of each frame's light: cast shadows and what nine harmonics cannot show."""
        grey = excess.mean(-1).flatten(0, 1)  # [F, V]
        weight = self.pixels * self.plain / (1 + (grey / SHADOW_OUTLIER).square()).square()
        pulled = self.fields.T @ (weight[..., None] * self.fields)  # [F, K, K]
        noise = SHADOW_NOISE * torch.eye(self.fields.shape[1]).to(pulled)
        depth = torch.linalg.solve_ex(pulled + noise, ((weight * grey) @ self.fields)[..., None])[0]  # [F, K, 1]
        return 1 + (self.fields @ depth).clamp(-0.8, 2.0).unflatten(0, excess.shape[:2])

    def _light_share(
        self,
        relative: Tensor,  # [B, V, 3] detail over the skin's colour
    ) -> Tensor:  # [B, V, 3]
        """Fits the nine shading directions to the detail, robustly: a beard or glasses must not brighten the rest."""
        share = torch.zeros_like(relative)
        if self.span is None:
            return share
        for _ in range(3):
            outlier = (relative - share).square().mean(-1) / LIGHT_OUTLIER**2  # [B, V]
            weight = self.witness / (1 + outlier).square()
            pulled = self.span.mT @ (weight[:, None, :, None] * self.span)  # [B, 3, 9, 9]
            right = (weight[..., None] * relative).permute(0, 2, 1)[..., None]  # [B, 3, V, 1]
            damped = pulled + 1e-3 * pulled[..., :1, :1] * torch.eye(9).to(pulled) + 1e-9
            found = torch.linalg.solve_ex(damped, self.span.mT @ right)[0]  # [B, 3, 9, 1]
            share = (self.span @ found)[..., 0].permute(0, 2, 1)
        return share


def _mesh(
    model: FML,
    scale: float,  # px per mm
) -> FaceTemplate:
    """Loads the finest level of the template whose edges on the face are not shorter than the pixels."""
    mesh = model.template
    while mesh.level < FINEST:
        face = mesh.regions["face"] > 0.5
        spacing = float(mesh.vertex_areas[face].mean()) ** 0.5  # mm
        if scale * spacing / 2 < SMALLEST_EDGE:
            break
        mesh = load_template(replace(model.config, level=mesh.level + 1)).to(mesh.vertices.device)
    return mesh


def _varied(mesh: FaceTemplate) -> Tensor:  # [V] in 0..1
    """Computes where people's colours differ much from skin: brows, lips, and the beard's place below the nose."""
    marks = mesh.landmarks(mesh.vertices).cpu().numpy()
    points = mesh.vertices.cpu().numpy()
    lift = [0.0, BROW_LIFT, 0.0]
    brows = [polyline_distance(points, (marks[i : i + 5] + lift).astype("float32"))[0] for i in (17, 22)]
    near = torch.from_numpy(brows[0]).minimum(torch.from_numpy(brows[1])).to(mesh.vertices)
    below = float(marks[33, 1]) - mesh.vertices[:, 1]
    return torch.maximum(1 - smoothstep(near, 4.0, 9.0), smoothstep(below, 0.0, 8.0))


def _smooth_fields(mesh: FaceTemplate) -> Tensor:  # [V, K]
    """Computes functions on the face whose standard normal combinations are a Gaussian process of length FIELD_LENGTH.

    They are those of `FIELDS` inducing points, spread evenly over the face (Nystrom's approximation).
    """
    face = mesh.vertices[(mesh.regions["face"] > 0.5).nonzero()[:, 0]]
    chosen, distance = [0], torch.full_like(face[:, 0], torch.inf)
    for _ in range(FIELDS - 1):
        distance = distance.minimum((face - face[chosen[-1]]).norm(dim=1))
        chosen.append(int(distance.argmax()))

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-0.5 * (torch.cdist(a, b) / FIELD_LENGTH).square())

    points = face[chosen]
    factor = torch.linalg.cholesky(kernel(points, points) + 1e-3 * torch.eye(len(points)).to(points))
    return torch.linalg.solve_triangular(factor, kernel(mesh.vertices, points).T, upper=False).T.contiguous()
