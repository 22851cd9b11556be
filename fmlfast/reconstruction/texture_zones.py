"""Computes zones of a face by what may be seen there: bare skin, hair, eyes and mouth, and what hides skin."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from fmlfast.reconstruction.texture_samples import DARKEST
from fmlfast.template.face_template import FaceTemplate
from fmlfast.template.regions import polyline_distance, smoothstep

FOREHEAD = 55.0, 75.0  # mm above the face's middle, where the model's hair begins
UNDER = -12.0, -8.0  # mm above the brows' landmarks, where they begin
ABOVE = 0.0, 6.0  # mm above the brows, where the forehead begins
BROWS, LIDS, NOSTRILS = (8.0, 12.0), (5.0, 9.0), (5.0, 9.0)  # mm around these landmarks, where hair or lashes may be
LIPS = 3.0, 7.0  # mm around the lips' outline, where they may be
BEARD = 2.0, -6.0  # mm above the nose's base
GLASSES = 26.0, 34.0  # mm around the eyes' outlines, where frames may be
BROW, LASHES = (4.0, 6.0), (3.0, 5.0)  # mm around brows and eyes, where lines are not those of glasses
ROOT = 7.0, 9.0, 20.0  # mm beside, above and below, and before and behind the root of the nose
OWN, FEATURES = 0.15, 2.0  # how far, as log ratio, a person's skin, and lids, eyes and lips, differ from the model's
FRINGE = 0.25  # how much darker than the model the forehead may be
BARE, HAIRY, HIDING = 0.4, 3.0, 0.25  # how much darker than the model skin, hair of the face, ears and neck may be
BRIGHT, SHINY = 0.4, 1.0  # how much brighter skin, and eyes and teeth, may be
CHROMA, COLORFUL = 0.3, 2.0  # how far the hue of skin, and of lips and eyes, may differ


@dataclass(frozen=True)
class Zones:
    """Masks 0..1 of the vertices, [V] each."""

    face: Tensor
    """The evaluated face."""
    shown: Tensor
    """1 below the hairline, falling to 0 above it; 0 on lashes, which are too thin to be found in a photo."""
    hairy: Tensor
    """Brows, lashes, nostrils, and where beards grow."""
    wet: Tensor
    """Eyes, lips and mouth."""
    hiding: Tensor
    """Ears, neck and back, which hair and clothes hide."""
    lids: Tensor
    """Lids and lashes."""
    brows: Tensor
    """Where brows may be."""
    forehead: Tensor
    """Bare skin above the brows, where a fringe begins."""
    frames: Tensor
    """Around the eyes, where frames of glasses may be, but for lids and the middle of the brows."""
    bridge: Tensor
    """The root of the nose, which all glasses cross."""
    worn: Tensor
    """Bare skin of forehead and around the eyes, where strands of hair and glasses may be."""
    hidden: Tensor
    """Forehead and above, back of the head, ears and neck, where models learn hair and clothes."""

    @classmethod
    def of(cls, template: FaceTemplate) -> "Zones":
        """Computes the zones from a template's regions and landmarks."""
        regions, points = template.regions, template.vertices
        marks = template.landmarks(points)

        @cache
        def distance(ids: tuple[int, ...]) -> Tensor:
            return torch.from_numpy(polyline_distance(points.numpy(), marks[list(ids)].numpy())[0])

        def near(ids: Iterable[int], limits: tuple[float, float]) -> Tensor:
            return 1 - smoothstep(distance(tuple(ids)), *limits)

        eyes = [*range(36, 42), 36], [*range(42, 48), 42]
        hair = [near(range(17, 22), BROWS), near(range(22, 27), BROWS), near(range(31, 36), NOSTRILS)]
        lids = torch.stack([near(eye, LIDS) for eye in eyes]).amax(0)
        hair.append(lids)
        base = float(marks[33, 1])
        hair.append(smoothstep(points[:, 1], base + BEARD[0], base + BEARD[1]))
        lips = near([*range(48, 60), 48], LIPS)
        wet = torch.maximum(1 - regions["skin"], torch.maximum(regions["lips"], lips))
        beside = torch.maximum(regions["ears"], regions["neck"])
        back = 1 - smoothstep(regions["face"], 0.0, 0.6)
        hairy, forehead = torch.stack(hair).amax(0), smoothstep(points[:, 1], *FOREHEAD)
        aside = torch.maximum(beside, back)
        above = points[:, 1] - marks[17:27, 1].mean()
        glasses = torch.stack([near(eye, GLASSES) for eye in eyes]).amax(0)
        browless = 1 - torch.maximum(near(range(17, 22), BROW), near(range(22, 27), BROW))
        lidless = 1 - torch.stack([near(eye, LASHES) for eye in eyes]).amax(0)
        root = ((points - marks[27]).abs() / torch.tensor(ROOT)).amax(1)
        return cls(
            face=regions["face"],
            shown=(1 - regions["scalp"]) * (1 - regions["lashes"]),
            hairy=hairy,
            lids=lids,
            brows=torch.maximum(hair[0], hair[1]) * smoothstep(above, *UNDER),
            forehead=smoothstep(above, *ABOVE) * (1 - hairy) * (1 - regions["scalp"]) * (1 - aside),
            wet=wet,
            hiding=aside * (1 - wet),
            frames=glasses * browless * lidless * (1 - wet),
            bridge=(root < 1).float() * regions["skin"],
            worn=torch.maximum(forehead, glasses) * (1 - hairy) * (1 - wet),
            hidden=torch.maximum(forehead, aside) * (1 - wet),
        )

    def limits(self) -> Tensor:  # [V, 3]
        """Computes how much darker, brighter and differently coloured than the model a sample may be, as log ratios."""
        hair, skin = torch.maximum(self.hairy, self.wet), torch.ones_like(self.face)
        dark = torch.lerp(BARE * skin, FRINGE * skin, smoothstep(self.worn * self.hidden, 0.0, 1.0))
        dark = dark + (HAIRY - BARE) * hair
        bright = BRIGHT * skin + (SHINY - BRIGHT) * self.wet
        hue = CHROMA * skin + (COLORFUL - CHROMA) * self.wet
        return torch.lerp(torch.stack([dark, bright, hue], 1), HIDING * torch.ones(3), self.hiding[:, None])


def unhidden(
    template: FaceTemplate,
    reflectance: Tensor,  # [V, 3] linear, with what the photos showed at the vertices
    learned: Tensor,  # [V, 3] linear, without
) -> Tensor:  # [V, 3] linear
    """Keeps of what the photos showed no more than skin may differ: hair and hands would vote for themselves."""
    zones = Zones.of(template)
    limit = (OWN + (FEATURES - OWN) * torch.maximum(zones.wet, zones.lids))[:, None]
    learned = learned.clamp(min=DARKEST)
    change = (reflectance.clamp(min=DARKEST) / learned).log()
    return learned * (limit * torch.tanh(change / limit)).exp()
