"""The learned face model: identity on the deformation graph, expressions on the mesh, reflectance per vertex."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from fmlfast._exact import exact
from fmlfast.kernels._backend import Backend
from fmlfast.kernels.blendshape import linear_decode, pad_columns
from fmlfast.kernels.deform import deform, skin_displacements
from fmlfast.kernels.normals import vertex_normals
from fmlfast.kernels.shading import sh_basis
from fmlfast.optim import LowRankAdam
from fmlfast.smooth_fields import by_effect, smooth_fields
from fmlfast.template import FaceTemplate

SMOOTH_FIELDS = 250  # that refinement, or a start from landmarks, may add to the learned identity


class FaceModel(nn.Module):
    """v = v_bar + S OC(theta_s) alpha + E delta, r = r_bar + theta_r beta (paper section 3).

    `smooth_basis` writes theta_s as coefficients times smooth, nearly symmetric fields (fewer degrees of freedom, and
    what is seen on one cheek is known of the other); without it theta_s is free, as in the paper. `complement_rank` is
    how many expression directions identity may not use: None for all (the paper), 0 for none.
    `residual_expressions` > 0 learns that many expressions more, on the graph, which a frame adds to t:
    t_f = t + OC_e(theta_e) epsilon_f; the paper has none, its successors do (Learning Complete 3D Morphable Face Models
    from Images and Videos). The reflectance basis is stored padded, see `pad_columns`; `backend` is passed to every
    operation, and in training `decoder` keeps factors of that basis' gradient; neither is part of a checkpoint.
    `light_complement` takes from theta_r what light can do, colour and shading of the whole face, as the complement
    takes from identity what expressions do, and gives r_bar the colour that the template's face has on average.
    """

    complement: Tensor  # [3G, r], Q
    smooth: Tensor  # [min(SMOOTH_FIELDS, 3G), 3G] mm
    expression_span: Tensor | None  # [3G, r], complement of residual expressions
    light_span: Tensor | None  # [3, V, 9] what harmonics of light make of the template's colours, by channel
    light_share: Tensor | None  # [3, 9, V] gives how much of each is in other colours
    residual_basis: nn.Parameter | None  # [Ke, SMOOTH_FIELDS or 3G], theta_e

    def __init__(
        self,
        template: FaceTemplate,
        identity_dim: int,
        reflectance_dim: int,
        complement_rank: int | None,
        smooth_basis: bool,
        light_complement: bool,
        residual_expressions: int = 0,
    ) -> None:
        super().__init__()
        self.num_vertices = len(template.vertices)
        self.num_nodes = len(template.nodes)
        self.template = template
        self.backend: Backend | None = None
        self.decoder: LowRankAdam | None = None
        self.register_buffer("complement", template.complement_basis(complement_rank), persistent=False)
        self.register_buffer("smooth", by_effect(smooth_fields(template.nodes, SMOOTH_FIELDS), template))
        self.smooth_basis = smooth_basis
        if smooth_basis:
            initial = torch.randn(identity_dim, len(self.smooth)) * (0.085 / len(self.smooth) ** 0.5)
        else:
            initial = torch.randn(identity_dim, 3 * self.num_nodes) * 0.05
        self.identity_basis = nn.Parameter(initial)
        self.reflectance_mean = nn.Parameter(template.colors.flatten().clone())
        self.reflectance_basis = nn.Parameter(pad_columns(torch.randn(reflectance_dim, 3 * self.num_vertices) * 0.01))
        span, share = _light_directions(template) if light_complement else (None, None)
        self.register_buffer("light_span", span, persistent=False)
        self.register_buffer("light_share", share, persistent=False)
        self._add_residual_expressions(residual_expressions)

    def _add_residual_expressions(self, count: int) -> None:
        span = self.template.complement_basis(None) if count else None
        self.register_buffer("expression_span", span, persistent=False)
        identities, fields = self.identity_basis.shape
        taken = identities if span is None or self.smooth_basis else identities + span.shape[1]
        if count and count > fields - taken:
            raise ValueError(
                f"{count} residual expressions do not fit: of {fields} fields on the graph {taken} are taken; "
                "ask for fewer, or for a smaller identity_dim"
            )
        # Only their directions count, so this says how fast they turn.
        self.residual_basis = nn.Parameter(torch.randn(count, fields) * 0.1) if count else None

    @property
    def graph_bases(self) -> list[nn.Parameter]:
        """The learned bases of displacements: of identity and, where there are any, of residual expressions."""
        return [self.identity_basis] if self.residual_basis is None else [self.identity_basis, self.residual_basis]

    @exact
    def displacements(
        self,
        alpha: Tensor,  # [B, K + N], 0 <= N <= SMOOTH_FIELDS
    ) -> Tensor:  # [B, G, 3] mm
        """Node displacements t = OC(theta_s) alpha; OC removes the span of the expressions' basis Q.

        A start from landmarks and refinement also use smooth fields beside the basis: what alpha has beyond K are the
        coefficients of the first N.
        """
        # No kernel of ours: the largest of these products reads 3 MB (500 x 1563 floats), reflectance's reads 333 MB.
        learned = len(self.identity_basis)
        field = self._on_graph(alpha[:, :learned] @ self.identity_basis)
        field = field - (field @ self.complement) @ self.complement.T
        if alpha.shape[1] > learned:
            field = field + alpha[:, learned:] @ self.smooth[: alpha.shape[1] - learned]
        return rearrange(field, "b (g c) -> b g c", c=3)

    @exact
    def residual(
        self,
        epsilon: Tensor,  # [B, M, Ke]
    ) -> Tensor | None:  # [B, M, G, 3] mm
        """Node displacements of residual expressions, each 1 mm (root mean square) at 1; None where there are none.

        They are orthogonal to the learned identity basis, a constant here, so that no frame can change who it shows,
        and to all fixed expressions, so that a movement which has a name keeps it. Smooth fields beside that basis are
        not taken out: they can do nearly all that the graph can.
        """
        if self.residual_basis is None or self.expression_span is None:
            return None
        identity = F.normalize(self._on_graph(self.identity_basis.detach()), dim=1)
        taken = torch.cat([self.expression_span.T, identity]).double()
        fields = self._on_graph(self.residual_basis).double()
        # Least squares, damped as the taken may depend on each other; in float64 less than 1e-6 of them is left.
        gram = taken @ taken.T
        gram.diagonal().add_(1e-12 * len(gram))
        share = torch.linalg.solve_ex(gram, taken @ fields.T)[0]  # looking at errors waits for a GPU
        fields = fields - share.T @ taken
        fields = fields / (fields.square().sum(1, keepdim=True) / self.num_nodes).sqrt()
        return (epsilon @ fields.to(epsilon.dtype)).unflatten(-1, (self.num_nodes, 3))

    def neutral(
        self,
        displacements: Tensor,  # [B, G, 3] mm
        template: FaceTemplate | None = None,
    ) -> Tensor:  # [B, V, 3] mm
        """Neutral geometry v_bar + S t, on this model's mesh or on another level of the same template."""
        mesh = self._mesh(template)
        return mesh.vertices + skin_displacements(displacements, mesh.skin_indices, mesh.skin_weights, self.backend)

    def geometry(
        self,
        displacements: Tensor,  # [B, G, 3] mm
        delta: Tensor,  # [B, M, E]
        rotation: Tensor | None = None,  # [B, M, 3, 3]
        translation: Tensor | None = None,  # [B, M, 3] mm
        template: FaceTemplate | None = None,
        residual: Tensor | None = None,  # [B, M, G, 3] mm
    ) -> Tensor:  # [B, M, V, 3] mm
        """Geometry with expression, in the model frame or, given both, posed by rotation and translation."""
        mesh = self._mesh(template)
        if residual is not None:  # frames that differ on the graph are subjects of one frame each
            own = (displacements[:, None] + residual).flatten(0, 1)
            pose = None, None
            if rotation is not None and translation is not None:
                pose = rotation.flatten(0, 1)[:, None], translation.flatten(0, 1)[:, None]
            return self.geometry(own, delta.flatten(0, 1)[:, None], *pose, template).view(*delta.shape[:2], -1, 3)
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
    ) -> Tensor:  # [B, V, 3] linear RGB
        """Per-vertex reflectance."""
        if self.decoder is not None:
            flat = self.decoder.decode(beta, self.reflectance_mean)
        else:
            flat = linear_decode(beta, self.reflectance_basis, self.reflectance_mean, self.backend)
        return self._without_light(flat.view(len(beta), self.num_vertices, 3))

    @property
    def mean_reflectance(self) -> Tensor:  # [V, 3] linear RGB
        """Reflectance of codes that are 0."""
        mean, face = self.reflectance_mean.view(-1, 3), self.template.regions["face"]
        return mean if self.light_span is None else mean * ((face @ self.template.colors) / (face @ mean))

    def _without_light(self, reflectance: Tensor) -> Tensor:  # [B, V, 3]
        if self.light_span is None or self.light_share is None:
            return reflectance
        deviation = reflectance - self.reflectance_mean.view(-1, 3)
        planes = self.light_span @ (self.light_share @ deviation.permute(2, 1, 0))  # [3, V, B]
        return self.mean_reflectance + deviation - planes.permute(2, 1, 0)

    def _on_graph(self, coefficients: Tensor) -> Tensor:
        """Displacement fields [N, 3G] from what is learned of them."""
        return coefficients @ self.smooth if self.smooth_basis else coefficients

    def _mesh(self, template: FaceTemplate | None) -> FaceTemplate:
        if template is None:
            return self.template
        if template.fingerprint != self.template.fingerprint:
            raise ValueError(f"template {template.name} is not a level of the model's template {self.template.name}")
        return template.to(self.reflectance_mean.device)


def _light_directions(template: FaceTemplate) -> tuple[Tensor, Tensor]:
    """What the harmonics of light make of the template's colours, and the weighted least squares that find them."""
    harmonics = sh_basis(vertex_normals(template.vertices[None], template.triangles, "torch"))[0]
    span = (template.colors.T[..., None] * harmonics).double()  # [3, V, 9]
    weighted = (span * template.regions["face"][:, None]).mT
    # Not by lstsq, whose way on the CPU depends on what its memory held before (pytorch/pytorch#187411).
    share = torch.linalg.pinv(weighted @ span, hermitian=True) @ weighted
    return span.float().contiguous(), share.float().contiguous()  # NCCL sends nothing else
