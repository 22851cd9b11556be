"""Linear decoders: a few codes times a large basis (paper section 3, arXiv 1812.07603). Torch reference."""

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def linear_decode(
    codes: Tensor,  # [N, K]
    basis: Tensor,  # [K, D]
    mean: Tensor,  # [D]
) -> Tensor:  # [N, D]
    """mean + codes @ basis, e.g. the reflectance r = r_bar + theta_r beta.

    Raises ValueError where the shapes disagree.
    """
    if codes.ndim != 2 or basis.ndim != 2 or codes.shape[1] != basis.shape[0] or mean.shape != basis.shape[1:]:
        raise ValueError(
            f"codes [N,K], basis [K,D] and mean [D] disagree: "
            f"{tuple(codes.shape)}, {tuple(basis.shape)}, {tuple(mean.shape)}"
        )
    return mean + codes @ basis


def skin_displacements(
    displacements: Tensor,  # [B, G, 3] mm
    skin_indices: Tensor,  # [V, 8] int32 or int64, nodes
    skin_weights: Tensor,  # [V, 8], rows sum to 1
) -> Tensor:  # [B, V, 3] mm
    """Translation-only linear skinning S t: every vertex moves by the weighted mean of its nodes' displacements.

    Raises ValueError where the shapes disagree.
    """
    if displacements.ndim != 3 or skin_indices.shape != skin_weights.shape or skin_indices.ndim != 2:
        raise ValueError(
            f"displacements must be [B,G,3], skin_indices and skin_weights [V,8]; got {tuple(displacements.shape)}, "
            f"{tuple(skin_indices.shape)}, {tuple(skin_weights.shape)}"
        )
    table = rearrange(displacements, "b g c -> g (b c)")
    moved = F.embedding_bag(skin_indices, table, per_sample_weights=skin_weights.to(table.dtype), mode="sum")
    return rearrange(moved, "v (b c) -> b v c", c=3)


def deform(
    mean: Tensor,  # [V, 3] mm
    displacements: Tensor,  # [B, G, 3] mm
    skin_indices: Tensor,  # [V, 8]
    skin_weights: Tensor,  # [V, 8]
    expressions: Tensor,  # [E, V, 3] mm
    delta: Tensor,  # [B, M, E]
) -> Tensor:  # [B, M, V, 3] mm
    """Posed geometry v = v_bar + S t + E delta of M frames of each of B subjects (paper equation 1).

    Raises ValueError where the shapes disagree.
    """
    if delta.ndim != 3 or delta.shape[0] != displacements.shape[0] or delta.shape[2] != expressions.shape[0]:
        raise ValueError(
            f"delta must be [B,M,E] with B of displacements and E of expressions; got {tuple(delta.shape)}, "
            f"{tuple(displacements.shape)}, {tuple(expressions.shape)}"
        )
    neutral = mean + skin_displacements(displacements, skin_indices, skin_weights)
    offsets = delta.flatten(0, 1) @ expressions.flatten(1)
    return neutral[:, None] + offsets.view(*delta.shape[:2], -1, 3)
