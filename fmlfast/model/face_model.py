"""Defines the face model: identity on the deformation graph, expressions on the mesh, reflectance per vertex."""

import torch
from einops import rearrange
from torch import Tensor, nn

from fmlfast.common.tensors import exact
from fmlfast.data.surface_cells import surface_cells
from fmlfast.kernels.blendshape import linear_decode, pad_columns
from fmlfast.kernels.common.backend import Backend
from fmlfast.kernels.deform import deform, skin_displacements
from fmlfast.kernels.normals import vertex_normals
from fmlfast.kernels.shading import sh_basis
from fmlfast.model.gp_basis import smooth_fields, sort_modes_by_face_motion
from fmlfast.model.lighting import ambient_factor
from fmlfast.optim import LowRankAdam
from fmlfast.template.face_template import FaceTemplate

SMOOTH_FIELDS = 250  # Gaussian process modes that refinement or the landmark fit may add to the learned identity


class FaceModel(nn.Module):
    """Decodes codes to vertices v and reflectance r (paper section 3).

    v = v_bar + S (m + OC(theta_s) alpha) + E delta and r = r_bar + theta_r beta. v_bar: template vertices; S: skinning
    weights of the graph; m: mean displacement; theta_s, alpha: identity basis and code; OC: projection onto the
    orthogonal complement of the expressions; E, delta: blendshapes and coefficients; r_bar: mean reflectance; theta_r,
    beta: reflectance basis and code.

    `smooth_basis` writes theta_s as coefficients times smooth fields, nearly symmetric modes of a Gaussian process
    (`gp_basis`): fewer degrees of freedom, and one cheek informs the other. Without it theta_s is free, as in the
    paper. `learned_mean`: m is the population's mean plus a change that is learned, as coefficients of the smooth
    fields, without the expressions' directions either: else what faces usually do would become part of the neutral one.
    Without `learned_mean` m is 0 (the paper).
    `complement_rank`: number of expression directions that OC removes; None for all (the paper), 0 for none.
    `light_complement` projects the nine shading directions of the whole face out of theta_r, and scales r_bar to the
    template's mean face colour. The reflectance basis is stored padded, see `pad_columns`. `backend` is passed to every
    operation; in training `decoder` keeps factors of that basis' gradient; neither is part of a checkpoint.
    """

    population_mean: Tensor  # [3G] mm
    complement: Tensor  # [3G, r], Q: orthonormal basis of the expressions on the graph
    smooth: Tensor  # [min(SMOOTH_FIELDS, 3G), 3G] mm
    ambient: Tensor  # [V] factor of the light in hollows
    surface_cells: Tensor  # [478, V0], see `surface_colors`
    light_span: Tensor | None  # [3, V, 9] the nine shading directions, by colour channel
    light_share: Tensor | None  # [3, 9, V] least-squares projection of colours onto them

    def __init__(
        self,
        template: FaceTemplate,
        identity_dim: int,
        reflectance_dim: int,
        complement_rank: int | None,
        smooth_basis: bool,
        learned_mean: bool,
        light_complement: bool,
    ) -> None:
        super().__init__()
        self.num_vertices = len(template.vertices)
        self.num_nodes = len(template.nodes)
        self.template = template
        self.backend: Backend | None = None
        self.decoder: LowRankAdam | None = None
        self.register_buffer("complement", template.complement_basis(complement_rank), persistent=False)
        self.register_buffer(
            "smooth", sort_modes_by_face_motion(smooth_fields(template.nodes, SMOOTH_FIELDS), template)
        )
        self.smooth_basis = smooth_basis
        if smooth_basis:
            initial = torch.randn(identity_dim, len(self.smooth)) * (0.085 / len(self.smooth) ** 0.5)
        else:
            initial = torch.randn(identity_dim, 3 * self.num_nodes) * 0.05
        self.identity_basis = nn.Parameter(initial)
        self.register_buffer("population_mean", torch.zeros(3 * self.num_nodes))
        self.identity_mean = nn.Parameter(torch.zeros(len(self.smooth))) if learned_mean else None
        self.reflectance_mean = nn.Parameter(template.colors.flatten().clone())
        self.reflectance_basis = nn.Parameter(pad_columns(torch.randn(reflectance_dim, 3 * self.num_vertices) * 0.01))
        self.register_buffer("ambient", ambient_factor(template), persistent=False)
        self.register_buffer("surface_cells", surface_cells(template), persistent=False)
        span, share = _light_directions(template) if light_complement else (None, None)
        self.register_buffer("light_span", span, persistent=False)
        self.register_buffer("light_share", share, persistent=False)

    @exact
    def displacements(
        self,
        alpha: Tensor,  # [B, K + N], 0 <= N <= SMOOTH_FIELDS
    ) -> Tensor:  # [B, G, 3] mm
        """Computes node displacements t = m + OC(theta_s) alpha; OC removes the span of the expressions' basis Q.

        The landmark fit and refinement add smooth fields to the basis: the entries of alpha beyond K are the
        coefficients of the first N of them.
        """
        # torch matmul, no custom kernel: the largest product reads 3 MB (500 x 1563 floats), reflectance's 333 MB.
        learned = len(self.identity_basis)
        field = self._without_expressions(self._on_graph(alpha[:, :learned] @ self.identity_basis))
        if alpha.shape[1] > learned:
            field = field + alpha[:, learned:] @ self.smooth[: alpha.shape[1] - learned]
        return rearrange(field, "b (g c) -> b g c", c=3) + self.mean_displacement

    @property
    def mean_displacement(self) -> Tensor:  # [G, 3] mm
        """Node displacements m of the mean face from the template."""
        mean = self.population_mean
        if self.identity_mean is not None:
            mean = mean + self._without_expressions(self.identity_mean @ self.smooth)
        return mean.view(-1, 3)

    def _without_expressions(self, field: Tensor) -> Tensor:  # [..., 3G] mm
        return field - (field @ self.complement) @ self.complement.T

    @torch.no_grad()
    def set_population(
        self,
        smooth: Tensor,  # [N, 3G] mm
        mean: Tensor,  # [3G] mm
    ) -> None:
        """Sets the smooth fields and, where it is learned, where the mean face starts from."""
        self.smooth.copy_(smooth)
        if self.identity_mean is not None:
            self.population_mean.copy_(mean)
            self.identity_mean.zero_()

    def neutral(
        self,
        displacements: Tensor,  # [B, G, 3] mm
        template: FaceTemplate | None = None,
    ) -> Tensor:  # [B, V, 3] mm
        """Computes neutral geometry v_bar + S t, on this model's mesh or on another level of its template."""
        mesh = self._mesh(template)
        return mesh.vertices + skin_displacements(displacements, mesh.skin_indices, mesh.skin_weights, self.backend)

    def geometry(
        self,
        displacements: Tensor,  # [B, G, 3] mm
        delta: Tensor,  # [B, M, E]
        rotation: Tensor | None = None,  # [B, M, 3, 3]
        translation: Tensor | None = None,  # [B, M, 3] mm
        template: FaceTemplate | None = None,
    ) -> Tensor:  # [B, M, V, 3] mm
        """Computes geometry with expression, in the model frame or, given rotation and translation, posed."""
        mesh = self._mesh(template)
        return deform(
            mesh.vertices,
            displacements,
            mesh.skin_indices,
            mesh.skin_weights,
            mesh.expressions,
            delta,
            rotation,
            translation,
            self.backend,
        )

    @exact
    def reflectance(
        self,
        beta: Tensor,  # [B, Kr]
        detail: Tensor | None = None,  # [B, U, 3] on any level of the template, or U = 0
        template: FaceTemplate | None = None,
    ) -> Tensor:  # [B, V, 3] linear RGB
        """Decodes reflectance codes to per-vertex reflectance and adds the detail, on any level of the template."""
        if self.decoder is not None:
            flat = self.decoder.decode(beta, self.reflectance_mean)
        else:
            flat = linear_decode(beta, self.reflectance_basis, self.reflectance_mean, self.backend)
        mesh = self._mesh(template)
        reflectance = mesh.on_level(self._without_light(flat.view(len(beta), self.num_vertices, 3)))
        return reflectance if detail is None or not detail.shape[1] else reflectance + mesh.on_level(detail)

    def occluded(self, reflectance: Tensor) -> Tensor:
        """Multiplies reflectance [..., V, 3] by the factor of the light in hollows; light shades the product."""
        return reflectance * self.ambient[:, None]

    def surface_colors(
        self,
        reflectance: Tensor,  # [B, V, 3] linear RGB
    ) -> Tensor:  # [B, 478, 3] linear RGB
        """Averages reflectance over the skin nearest to each of the detector's surface points; 0 without skin."""
        return self.surface_cells @ reflectance[:, : self.surface_cells.shape[1]]

    @property
    def base_reflectance(self) -> Tensor:  # [V, 3] linear RGB
        """Reflectance at beta = 0; with `light_complement` scaled to the template's mean face colour."""
        mean, face = self.reflectance_mean.view(-1, 3), self.template.regions["face"]
        return mean if self.light_span is None else mean * ((face @ self.template.colors) / (face @ mean))

    def _without_light(self, reflectance: Tensor) -> Tensor:  # [B, V, 3]
        if self.light_span is None or self.light_share is None:
            return reflectance
        deviation = reflectance - self.reflectance_mean.view(-1, 3)
        planes = self.light_span @ (self.light_share @ deviation.permute(2, 1, 0))  # [3, V, B]
        return self.base_reflectance + deviation - planes.permute(2, 1, 0)

    def _on_graph(self, coefficients: Tensor) -> Tensor:
        """Maps rows of the learned identity basis to displacement fields [N, 3G] mm."""
        return coefficients @ self.smooth if self.smooth_basis else coefficients

    def _mesh(self, template: FaceTemplate | None) -> FaceTemplate:
        if template is None:
            return self.template
        if template.fingerprint != self.template.fingerprint:
            raise ValueError(f"template {template.name} is not a level of the model's template {self.template.name}")
        return template.to(self.reflectance_mean.device)


def _light_directions(template: FaceTemplate) -> tuple[Tensor, Tensor]:
    """Computes the nine shading directions (template colour times harmonics) and the projection onto them.

    Returns [3, V, 9] and [3, 9, V]; the projection is least squares weighted by the face region.
    """
    harmonics = sh_basis(vertex_normals(template.vertices[None], template.triangles, "torch"))[0]
    span = (template.colors.T[..., None] * harmonics).double()  # [3, V, 9]
    weighted = (span * template.regions["face"][:, None]).mT
    # Not by lstsq, whose way on the CPU depends on what its memory held before (pytorch/pytorch#187411).
    share = torch.linalg.pinv(weighted @ span, hermitian=True) @ weighted
    return span.float().contiguous(), share.float().contiguous()  # NCCL sends nothing else
