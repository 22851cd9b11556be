"""Linear decoders: a few codes times a large basis (paper section 3, arXiv 1812.07603)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .common.backend import Backend, choose_backend
from .common.checks import check_size, check_tensor


def linear_decode(
    codes: Tensor,  # [N, K]
    basis: Tensor,  # [K, S], S >= D
    mean: Tensor,  # [D]
    backend: Backend | None = None,
) -> Tensor:  # [N, D]
    """Decodes codes linearly: mean + codes @ basis[:, :D], e.g. the reflectance r = r_bar + theta_r beta.

    Differentiable in all three. The basis lies row after row, a row a code, and is read once for a few codes.

    Args:
        codes: float32, with backend "torch" also float64.
        basis: the type of `codes`, or bfloat16, which halves the bytes to read; sums are made in the type of `codes`.
            Its columns from D on are padding, see `pad_columns`: finite, without effect and with gradient 0.
        mean: the type of `codes`.
        backend: "torch" or "triton"; by default the one for the device.

    Raises:
        ValueError: naming the argument of a wrong shape, type, device or layout.
    """
    check_tensor("codes", codes, ("N", "K"), contiguous=False)
    check_tensor("mean", mean, ("D",), (codes.dtype,), like=("codes", codes))
    check_tensor("basis", basis, (codes.shape[1], "S"), (codes.dtype, torch.bfloat16), like=("codes", codes))
    if basis.shape[1] < len(mean):
        raise ValueError(f"basis must have a column for each of the {len(mean)} of mean, not {basis.shape[1]}")
    if choose_backend(backend, codes) == "triton":
        from .blendshape_triton import linear_decode_triton  # not before: Triton is not on every platform

        return linear_decode_triton(codes, basis, mean)
    # Padding the mean and cutting the result costs N rows; cutting the basis would cost its gradient another pass.
    with torch.autocast(codes.device.type, enabled=False):
        padded = torch.addmm(F.pad(mean, (0, basis.shape[1] - len(mean))), codes, basis.to(codes.dtype))
    return padded[:, : len(mean)].contiguous()


def pad_columns(
    basis: Tensor,  # [K, D]
    multiple: int = 16,
) -> Tensor:  # [K, S]
    """Pads the basis with zero columns up to the next multiple, so that every row starts where wide loads may.

    Raises ValueError naming the argument of a wrong shape or value.
    """
    check_tensor("basis", basis, ("K", "D"), (torch.float32, torch.float64, torch.bfloat16), contiguous=False)
    check_size("multiple", multiple)
    return F.pad(basis, (0, -basis.shape[1] % multiple))
