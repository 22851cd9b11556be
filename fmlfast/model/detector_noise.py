"""Models the errors of surface points and blendshape scores."""

import torch
from torch import Tensor, nn

from fmlfast.data.landmark_assets import landmark_assets
from fmlfast.data.mediapipe478 import NUM_POINTS, SCORE_OF
from fmlfast.template.face_template import FaceTemplate

_USED = 160  # surface points of the fit; more cost time and, their errors being correlated, tell little
_CORRELATED = 4.0  # times its own variance that a point's counts: neighbours err alike. 1 and 16 give worse fits


class DetectorNoise(nn.Module):
    """Weighs surface points by the variances that the landmark network tells, and scores by those seen on renders.

    A score is gain * coefficient + offset + noise; the three numbers were measured on synthetic people.
    """

    picked: Tensor  # [P] int64, ids of the surface points that are used
    gain: Tensor  # [E], 0 for expressions without a score
    offset: Tensor  # [E]
    variance: Tensor  # [E]
    score: Tensor  # [E] int64, index of each expression's score

    def __init__(self, template: FaceTemplate) -> None:
        super().__init__()
        known = landmark_assets()
        self.register_buffer("picked", spread_points(template), persistent=False)
        score = torch.tensor([SCORE_OF.get(name, 0) for name in template.expression_names])
        self.register_buffer("score", score, persistent=False)
        self.register_buffer("gain", known["scores.gain"].float()[score] * (score > 0), persistent=False)
        self.register_buffer("offset", known["scores.offset"].float()[score], persistent=False)
        self.register_buffer("variance", known["scores.variance"].float()[score], persistent=False)

    def known(
        self,
        precision: Tensor,  # [F, 478] px^-2
    ) -> Tensor:  # [F, 1] bool
        """Tells which frames have surface points that this template knows."""
        return precision[:, self.picked].sum(1, keepdim=True) > 0

    def weights(
        self,
        precision: Tensor,  # [F, 478] px^-2, 0 where there are no points
    ) -> Tensor:  # [F, P] px^-2
        """Computes the weights of the points that are used."""
        return precision[:, self.picked] / _CORRELATED

    def expression_evidence(
        self,
        scores: Tensor,  # [F, 52]
        known: Tensor,  # [F, 1] bool
    ) -> tuple[Tensor, Tensor]:  # [F, E], [F, E]
        """Computes precision of the expression coefficients by the scores, and precision times their estimate."""
        weight = self.gain / self.variance * known
        return weight * self.gain, weight * (scores[:, self.score] - self.offset)


def spread_points(template: FaceTemplate) -> Tensor:  # [P] int64
    """Selects surface points that cover the face evenly, by farthest-point sampling; irises are left out."""
    skin = NUM_POINTS - 10
    if len(template.surface_triangles) < NUM_POINTS:
        return torch.zeros(0, dtype=torch.int64)
    corners = template.vertices[template.triangles.long()[template.surface_triangles[:skin]]]
    places = (corners * template.surface_barycentrics[:skin, :, None]).sum(1)
    chosen, distance = [1], torch.full((skin,), torch.inf)  # from the tip of the nose
    for _ in range(_USED - 1):
        distance = torch.minimum(distance, (places - places[chosen[-1]]).norm(dim=1))
        chosen.append(int(distance.argmax()))
    return torch.tensor(sorted(chosen))
