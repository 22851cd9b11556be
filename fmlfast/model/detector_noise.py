"""Models the errors of surface points and blendshape scores: correlated modes, and the scores' gain and spread."""

import torch
from torch import Tensor, nn

from fmlfast.data.landmark_network import align_points, landmark_assets
from fmlfast.data.mediapipe478 import NUM_POINTS, SCORE_NAMES
from fmlfast.template.face_template import FaceTemplate

_USED = 160  # surface points of the fit; more cost time and, their errors being correlated, tell little


class DetectorNoise(nn.Module):
    """What renders of people with known faces tell of the errors of detector and landmark network.

    The network tells each point's variance (the inverse of `Frames.precision`). The share `own` of it is independent
    of other points; the rest is a combination of R modes with standard normal coefficients, in units of the frame's
    mean deviation. The share `shared` of a mode's variance is common to all frames of a person: averaging M frames does
    not reduce it, so that it counts 1 + shared * (M - 1) fold in each. A score is gain * coefficient + offset + noise.
    """

    picked: Tensor  # [P] int64, ids of the surface points that are used
    canonical: Tensor  # [478, 2] crop coordinates
    modes: Tensor  # [R, P, 2] mean deviations
    own: Tensor  # [P]
    shared: Tensor  # [R] in [0, 1]
    gain: Tensor  # [E], 0 for expressions without a score
    offset: Tensor  # [E]
    variance: Tensor  # [E]
    score: Tensor  # [E] int64, index of each expression's score

    def __init__(self, template: FaceTemplate) -> None:
        super().__init__()
        known = landmark_assets()
        picked = spread_points(template)
        self.register_buffer("picked", picked, persistent=False)
        self.register_buffer("canonical", known["network.canonical"].float(), persistent=False)
        self.register_buffer("modes", known["noise.modes"].float()[:, picked], persistent=False)
        self.register_buffer("own", known["noise.own"].float()[picked], persistent=False)
        self.register_buffer("shared", known["noise.shared"].float(), persistent=False)
        place = {name: index for index, name in enumerate(SCORE_NAMES)}
        score = torch.tensor([place.get(name, 0) for name in template.expression_names])
        self.register_buffer("score", score, persistent=False)
        self.register_buffer("gain", known["scores.gain"].float()[score] * (score > 0), persistent=False)
        self.register_buffer("offset", known["scores.offset"].float()[score], persistent=False)
        self.register_buffer("variance", known["scores.variance"].float()[score], persistent=False)

    def of(
        self,
        surface: Tensor,  # [F, 478, 2] px
        precision: Tensor,  # [F, 478] px^-2, 0 where there are no points
        frames: Tensor,  # [F] number of frames of the subject that have points
    ) -> tuple[Tensor, Tensor]:  # [F, P] px^-2, [F, P, 2, R] px
        """Computes the inverse variance of the points' own errors, and the modes turned and scaled to each face."""
        matrix, _ = align_points(self.canonical, surface)
        turn = matrix / matrix[:, 0].norm(dim=1).clamp(min=1e-9)[:, None, None]
        level = (1 / precision.clamp(min=1e-9)).mean(1).sqrt() * (precision.sum(1) > 0)  # [F] px
        scale = level[:, None] * (1 + self.shared * (frames[:, None] - 1).clamp(min=0)).sqrt()  # [F, R]
        modes = torch.einsum("fij,rpj->fpir", turn, self.modes) * scale[:, None, None]
        return precision[:, self.picked] / self.own, modes

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
