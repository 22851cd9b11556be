"""Decides which samples of the photos show the face: robust statistics over photos, mirror and model, in the large.

Everything here happens on a coarse grid of the texture and on differences of several millimetres, so that hands,
fringes, glasses and glare go and moles and wrinkles stay.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, grid_sample, interpolate, max_pool2d, pad

from fmlfast.reconstruction.texture_atlas import TextureAtlas
from fmlfast.reconstruction.texture_zones import BARE, Zones
from fmlfast.template.regions import smoothstep

COARSE = 256  # cells a side at most
LOCAL = 2.5  # mm, standard deviation of the window in which colours are compared
VARIED = 1.2  # the same of eyes and lips, in which people differ more
MIRROR, MODEL = 0.6, 0.5  # votes of a mirrored sample and of the model; a sample of a photo has one
SPREAD, STEEP = 0.4, 8  # natural logarithm at which samples so far from the consensus count half; steepness of the fall
GLOSS = 0.15  # natural logarithm; larger differences of brightness are half believed, and at most twice this
PALE = 0.05  # natural logarithm; skin that lacks more red than this beside the person's is half believed
BEARDED = 0.2, 0.4  # natural logarithm, how much darker than skin beards begin, and are
INNER, SURE = 4.0, (0.6, 0.9)  # mm, standard deviation of a window; share of samples in it that make it sure
NEARBY = 8.0  # mm, standard deviation of the window in which dark skin tells of hair over brows, lenses over eyes
FRINGED = 0.2, 0.5  # share of hair there from which brows are not believed, and not at all
SHADED = 0.1, 0.25  # share of dark skin around the eyes, as through dark lenses, from which these are not believed
ROUNDS, UNEQUAL = 4, 0.1  # of estimating the photos' gains; share of a photo that tells half of its gain
WINDOW = 6.0  # mm, standard deviation of the window in which thin lines are looked for
CONTRAST = 0.1, 0.2  # natural logarithm, from which such lines count, and fully
AREA = 14.0, 28.0  # mm^2 of them in the window: a mole has less, a frame of glasses more
FINE, THIN = 512, (0.6, 2.5)  # cells a side at most; mm, standard deviations of windows of frames and around them
LINE, CROSSED = (0.04, 0.1), (0.78, 0.87)  # natural logarithm of lines; share of the bridge that they cross
BORDER = 2.0  # mm around what is rejected, where colours are mixed
FADE = 1.5  # times these limits where a sample is out altogether
REACHES = 4.0, 10.0, 25.0, 60.0  # mm over which tone spreads into what no photo shows
FAITH = 0.05  # weight of samples that is worth as much as the next wider reach


@dataclass(frozen=True)
class Consensus:
    """What samples are good for, on the coarse grid."""

    trust: Tensor
    """[N, c, c] 0..1, factor of the weights of each photo's samples."""
    tone: Tensor
    """[3, c, c] log ratio of the person's albedo, without detail, to the model's, everywhere."""
    gain: Tensor
    """[N, 3] log gain of each photo's samples beside the others'."""
    excess: Tensor
    """[3, c, c] log ratio of what the photos show to what skin can be: gloss, and greenish hues."""
    fine: Tensor
    """[1, c, c] where the photos' own colours are better than the tone: eyes, lips, brows, and far from what is out."""


def find_consensus(
    atlas: TextureAtlas,
    ratios: Sequence[Tensor],  # N of [3, S, S]
    weights: Sequence[Tensor],  # N of [S, S]
    mirror: Tensor | None,  # [2, S, S]
) -> Consensus:
    """Compares the photos' albedo, as log ratios to the model's, with each other, their mirror image and the model.

    Gains of the photos beside each other, as of wrongly fitted lights, are taken out first. The consensus is a weighted
    median a channel; samples far from it, and such as no skin has at that place, lose their weight.
    """
    step = max(1, atlas.size // COARSE)
    cell = atlas.millimetres * step
    weight = torch.stack([avg_pool2d(w[None], step)[0] for w in weights])  # [N, c, c]
    sums = torch.stack([avg_pool2d(r * w, step) for r, w in zip(ratios, weights, strict=True)])  # [N, 3, c, c]
    zones = Zones.of(atlas.template)
    masks = [zones.face, zones.shown, zones.wet, zones.lids, zones.worn, zones.hairy, zones.brows, zones.forehead]
    masks += [zones.frames, zones.bridge]
    masks = torch.cat([torch.stack(masks, 1), zones.limits()], 1)
    face, keep, wet, lids, worn, hairy, brows, forehead, frames, bridge, dark, bright, hue = _pool(atlas, masks, step)
    weight, sums = weight * keep, sums * keep
    local = _blur(weight[:, None], LOCAL / cell)
    ratio = _blur(sums, LOCAL / cell) / local.clamp(min=1e-6)  # [N, 3, c, c]
    gain = _gains(ratio, weight * (face > 0.5))
    sums, ratio = sums - gain[:, :, None, None] * weight[:, None], ratio - gain[:, :, None, None]
    usual = _median(sums.sum(0) / weight.sum(0).clamp(min=1e-6), weight.sum(0) * (face > 0.5))  # [3]
    ratio = ratio - usual[:, None, None]
    place = None if mirror is None else avg_pool2d(mirror, step)  # NaN where a cell is not on the surface altogether
    level = ratio.mean(1)
    tint = (ratio - level[:, None]).abs().amax(1)
    shadowed, seen = 1 - _below(-level, dark), weight > FAITH
    fringe = smoothstep(_nearby(shadowed, forehead * seen, cell), *FRINGED)
    behind = (_nearby(shadowed, frames * seen, cell) * lids).sum((1, 2), keepdim=True) / lids.sum().clamp(min=1e-6)
    spread = SPREAD + (VARIED - SPREAD) * torch.maximum(torch.maximum(wet, lids), brows * (1 - fringe))
    trust = _agreement(ratio - _middle(ratio, local[:, 0], place), spread) * keep
    dark = torch.lerp(dark, dark.clamp(max=BARE), fringe * brows)
    trust = trust * _below(-level, dark) * _below(level, bright) * _below(tint, hue)
    trust = trust * (1 - _lines(sums, weight, worn, cell))
    trust = trust * (1 - _glasses(atlas, ratios, weights, frames, bridge)) * (1 - lids * smoothstep(behind, *SHADED))
    reach = max(1, round(BORDER / cell))
    trust = _blur(-max_pool2d(-trust, 2 * reach + 1, 1, reach)[:, None], 1.0)[:, 0]
    total = ((sums - usual[:, None, None] * weight[:, None]) * trust[:, None]).sum(0, keepdim=True)
    count = (weight * trust).sum(0)[None, None]
    near = _blur(count / (count + FAITH), INNER / cell)[0]
    sure = smoothstep(near, *SURE)
    if place is not None:
        total = total + FAITH * sample_places(total, place)
        count = count + FAITH * sample_places(count, place)
    # Eyes and mouth that no photo shows have the model's colour and not the tone of the skin around them.
    tone = _spread(total, count + wet * FAITH / (count + FAITH), cell)
    excess = _gloss(tone.mean(0, keepdim=True)) + _greenish(tone, 1 - hairy * smoothstep(-tone.mean(0), *BEARDED))
    return Consensus(
        trust,
        tone + usual[:, None, None],
        gain,
        (1 - wet) * excess,
        torch.maximum(torch.maximum(wet, brows)[None], sure),
    )


def upsample(values: Tensor, size: int) -> Tensor:
    """Interpolates [N, c, c] on the coarse grid to [N, S, S]."""
    return interpolate(values[None], size=(size, size), mode="bilinear", align_corners=False)[0]


def sample_places(image: Tensor, places: Tensor) -> Tensor:
    """Samples [N, C, H, W] bilinearly at texture places (u, v) [2, h, w]; 0 where they are NaN."""
    missing = places.isnan().any(0)
    grid = torch.stack([2 * places[0] - 1, 1 - 2 * places[1]], -1).masked_fill(missing[..., None], 2.0)
    return grid_sample(image, grid.expand(len(image), -1, -1, -1), align_corners=False)


def _middle(ratio: Tensor, weight: Tensor, mirror: Tensor | None) -> Tensor:
    """Computes the median vote of the photos, their mirror images and the model: [3, c, c].

    ratio [N, 3, c, c], weight [N, c, c]; `mirror` [2, c, c] holds the places of the mirror images.
    """
    votes = weight / (weight + FAITH)
    candidates, ballots = [ratio, torch.zeros_like(ratio[:1])], [votes, MODEL * torch.ones_like(votes[:1])]
    if mirror is not None:
        candidates.append(sample_places(ratio, mirror))
        ballots.append(MIRROR * sample_places(votes[:, None], mirror)[:, 0])
    return _weighted_median(torch.cat(candidates), torch.cat(ballots)[:, None])


def _lines(sums: Tensor, weight: Tensor, worn: Tensor, cell: float) -> Tensor:
    """Finds frames of glasses and strands of hair: thin and longer than a mole, [N, c, c] 0..1.

    sums [N, 3, c, c] of ratios times weight [N, c, c]; `worn` [c, c] is where they may be.
    """
    level, count = sums.mean(1, keepdim=True), weight[:, None]
    around = _blur(level, WINDOW / cell) / _blur(count, WINDOW / cell).clamp(min=1e-6)
    contrast = (level / count.clamp(min=1e-6) - around).abs() * (count > FAITH)
    marked = smoothstep(contrast, *CONTRAST) * worn
    area = 2 * torch.pi * WINDOW**2 * _blur(marked, WINDOW / cell)  # mm^2 in the window
    return (marked * smoothstep(area, *AREA))[:, 0]


def _glasses(
    atlas: TextureAtlas,
    ratios: Sequence[Tensor],  # N of [3, S, S]
    weights: Sequence[Tensor],  # N of [S, S]
    frames: Tensor,  # [c, c] where they may be
    bridge: Tensor,  # [c, c]
) -> Tensor:
    """Finds frames of glasses by lines finer than the grid, where one crosses the nose's root: [N, c, c] 0..1."""
    step = max(1, atlas.size // FINE)
    cell, ratio = atlas.millimetres * step, atlas.size // step // len(frames)
    count = torch.stack([avg_pool2d(w[None], step) for w in weights])
    level = torch.stack([avg_pool2d(r.mean(0, keepdim=True) * w, step) for r, w in zip(ratios, weights, strict=True)])
    thin, wide = (_blur(torch.cat([level, count], 1), size / cell) for size in THIN)
    thin, wide = (x[:, 0] / x[:, 1].clamp(min=1e-6) for x in (thin, wide))
    lines = smoothstep((thin - wide).abs(), *LINE) * (count[:, 0] > FAITH)
    lines = max_pool2d(lines, ratio)
    tall = max(1, round(BORDER / (cell * ratio)))
    crossing = max_pool2d(lines, (2 * tall + 1, 1), 1, (tall, 0))  # bridges are bent
    width = bridge.sum(1)
    across = ((crossing * bridge).sum(2) / width.clamp(min=1e-6) * (width > 0.8 * width.max())).amax(1)
    return smoothstep(across, *CROSSED)[:, None, None] * lines * frames


def _agreement(difference: Tensor, spread: Tensor | float) -> Tensor:
    """Weights differences [N, 3, c, c] by the largest of their channels: 1 at 0, a half at the spread."""
    return 1 / (1 + (difference.abs().amax(1) / spread) ** STEEP)


def _gains(ratio: Tensor, weight: Tensor) -> Tensor:
    """Estimates by how much each photo is brighter than the others where both see the face: [N, 3], 0 on average.

    ratio [N, 3, c, c], weight [N, c, c]. Half the median difference from the others' mean, repeated, so that two photos
    meet in the middle; places that differ too much for a gain, and photos that share little, count little.
    """
    gain = ratio.new_zeros(len(ratio), 3)
    for _ in range(ROUNDS if len(ratio) > 1 else 0):
        level = (ratio - gain[:, :, None, None]) * weight[:, None]
        others = level.sum(0) - level, weight.sum(0) - weight
        shared = torch.minimum(weight, others[1])
        means = others[0] / others[1].clamp(min=1e-6)[:, None]
        change = ratio - gain[:, :, None, None] - means
        shared = shared * _agreement(change, SPREAD)
        steps = torch.stack([_median(c, w) for c, w in zip(change, shared, strict=True)])
        known = shared.sum((1, 2)) / (shared.sum((1, 2)) + UNEQUAL * weight.sum((1, 2))).clamp(min=1e-6)
        gain = gain + 0.5 * known[:, None] * steps
        gain = gain - gain.mean(0)
    return gain


def _gloss(level: Tensor) -> Tensor:
    """Computes how much of a brightness is above what skin has, which is gloss."""
    above = (level - GLOSS).clamp(min=0)
    return above - GLOSS * torch.tanh(above / GLOSS)


def _greenish(tone: Tensor, skin: Tensor) -> Tensor:
    """Computes how much less red than skin may be [3, c, c] is, at the same brightness; `skin` [c, c] is its share."""
    lack = (tone[1] + tone[2]) / 2 - tone[0] - PALE
    lack = skin * (lack.clamp(min=0) - PALE * torch.tanh(lack.clamp(min=0) / PALE))
    return torch.stack([-2 / 3 * lack, 1 / 3 * lack, 1 / 3 * lack])


def _nearby(dark: Tensor, zone: Tensor, cell: float) -> Tensor:
    """Computes the share of `dark` in the `zone` nearby, each [N, c, c]: 0..1."""
    around = _blur(torch.stack([dark * zone, zone], 1), NEARBY / cell)
    return around[:, 0] / around[:, 1].clamp(min=1e-3)


def _below(values: Tensor, limits: Tensor) -> Tensor:
    """Fades from 1 at the limit to 0 at FADE times the limit."""
    t = ((values / limits.clamp(min=1e-3) - 1) / (FADE - 1)).clamp(0, 1)
    return 1 - t * t * (3 - 2 * t)


def _pool(atlas: TextureAtlas, values: Tensor, step: int) -> Tensor:
    """Averages a field on the vertices [V, C] over the texels of each coarse cell, [C, c, c]."""
    chosen = atlas.places + atlas.places // atlas.size  # every second texel is enough
    texels = (chosen % min(step, 2) == 0).nonzero()[:, 0]
    fine = atlas.grid(torch.cat([atlas.interpolate(values, texels), torch.ones(len(texels), 1)], 1), texels)
    coarse = avg_pool2d(fine, step)
    return coarse[:-1] / coarse[-1:].clamp(min=1e-6)


def _blur(image: Tensor, sigma: float) -> Tensor:
    """Filters [N, C, H, W] by a Gaussian of `sigma` cells."""
    radius = max(1, int(3 * sigma))
    x = torch.arange(-radius, radius + 1, dtype=image.dtype)
    kernel = (-0.5 * (x / max(sigma, 1e-3)) ** 2).exp()
    kernel = kernel / kernel.sum()
    flat = image.flatten(0, 1)[:, None]
    flat = conv2d(pad(flat, (radius, radius, 0, 0)), kernel[None, None, None])
    flat = conv2d(pad(flat, (0, 0, radius, radius)), kernel[None, None, :, None])
    return flat[:, 0].view_as(image)


def _spread(total: Tensor, count: Tensor, cell: float) -> Tensor:
    """Fills sums [1, 3, c, c] of `count` [1, 1, c, c] samples into ever wider surroundings, 0 far away: [3, c, c]."""
    tone = torch.zeros_like(total)
    for reach in reversed(REACHES):
        near, weight = _blur(total, reach / cell), _blur(count, reach / cell)
        tone = (near + FAITH * tone) / (weight + FAITH)
    return tone[0]


def _median(values: Tensor, weights: Tensor) -> Tensor:
    """Computes the weighted median of [3, c, c] over all cells, [3]."""
    chosen = weights > 0
    if not chosen.any():
        return values.new_zeros(3)
    return _weighted_median(values[:, chosen].T, weights[chosen][:, None])


def _weighted_median(values: Tensor, weights: Tensor) -> Tensor:
    """Computes the weighted median over the first dimension; `weights` has one channel."""
    ordered, order = values.sort(0)
    share = weights.expand_as(values).gather(0, order).cumsum(0)
    index = (share < 0.5 * share[-1:]).sum(0, keepdim=True).clamp(max=len(values) - 1)
    return ordered.gather(0, index)[0]
