"""How far each subject's field of vectors lies from a mean that all share: a Gaussian prior on reflectance."""

from torch import Tensor

from .common.backend import Backend, choose_backend
from .common.checks import check_tensor


def deviation(
    values: Tensor,  # [B, V, 3]
    mean: Tensor,  # [V, 3]
    backend: Backend | None = None,
) -> Tensor:  # [B]
    """Computes the mean squared deviation over vertices and channels, (values - mean)^2, with gradients to both.

    Args:
        values: [B, V, 3] floating point, V >= 1, such as linear RGB.
        mean: [V, 3] of the same dtype.
        backend: "torch" or "triton"; by default "triton" on a GPU, "torch" on the CPU.

    Raises:
        ValueError: wrong shape, dtype or device, naming the argument.
    """
    check_tensor("values", values, ("B", "V", 3))
    if values.shape[1] == 0:
        raise ValueError("values must hold at least one vertex")
    check_tensor("mean", mean, tuple(values.shape[1:]), (values.dtype,), ("values", values))
    if choose_backend(backend, values) == "triton":
        from .deviation_triton import deviation_triton

        return deviation_triton(values, mean)
    return (values - mean).square().mean((1, 2))
