"""Validation shared by the operations.

Public functions check shapes and dtypes. What would be read out of bounds, indices, is looked at inside of registered
operations, as compiled and exported programs call nothing else. Other values are not looked at while torch compiles.
"""

import torch
from torch import Tensor

from .cache import TensorCache

FLOATS = (torch.float32, torch.float64)

_ranges = TensorCache()


def check_tensor(
    name: str,
    tensor: Tensor,
    shape: tuple[int | str, ...],
    dtypes: tuple[torch.dtype, ...] = FLOATS,
    like: tuple[str, Tensor] | None = None,
    contiguous: bool = True,
) -> None:
    """Raises ValueError naming the argument unless it has this shape, one of these dtypes and dense rows.

    Args:
        name: of the argument, as the user wrote it.
        tensor: what was given for it.
        shape: sizes; a string stands for any size and only names it.
        dtypes: those accepted.
        like: name and value of another argument whose device this one must share.
        contiguous: whether views with gaps or a changed order are refused, as a hidden copy would cost the time that
            the kernels save; small arguments such as cameras accept any strides.
    """
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name} must be a tensor, not {type(tensor).__name__}")
    if tensor.layout != torch.strided:
        raise ValueError(f"{name} must be dense, not {tensor.layout}: pass {name}.to_dense()")
    fits = tensor.ndim == len(shape)
    if not fits or any(isinstance(s, int) and s != n for s, n in zip(shape, tensor.shape, strict=True)):
        raise ValueError(f"{name} must be [{', '.join(str(s) for s in shape)}], not {list(tensor.shape)}")
    if tensor.dtype not in dtypes:
        names = " or ".join(str(d).removeprefix("torch.") for d in dtypes)
        raise ValueError(f"{name} must be {names}, not {str(tensor.dtype).removeprefix('torch.')}")
    if like is not None and tensor.device != like[1].device:
        raise ValueError(f"{name} is on {tensor.device}, {like[0]} on {like[1].device}: move them to one device")
    if contiguous and not tensor.is_contiguous():
        raise ValueError(f"{name} must be contiguous: pass {name}.contiguous()")


def check_triangles(triangles: Tensor, like: tuple[str, Tensor]) -> None:
    """Raises ValueError unless `triangles` is [T, 3] int32 or int64, T >= 1; the operation looks at the indices."""
    check_tensor("triangles", triangles, ("T", 3), (torch.int32, torch.int64), like)
    if len(triangles) == 0:
        raise ValueError("triangles must hold at least one triangle")


def check_corners(triangles: Tensor, vertices: int) -> None:
    """Raises ValueError unless the indices of `triangles` [T, 3] are in [0, vertices)."""
    check_indices("triangles", triangles, vertices, "vertices")


def check_indices(name: str, indices: Tensor, count: int, what: str) -> None:
    """Raises ValueError naming the argument unless all indices, one at least, lie in [0, count) of `what`.

    Those of one tensor are looked at once, and again after it was changed in place: on a GPU that means waiting.
    """
    if torch.compiler.is_compiling():
        return
    low, high = _ranges.get(indices, None, lambda: torch.stack(indices.aminmax()).tolist())
    if low < 0 or high >= count:
        raise ValueError(f"{name} hold the index {low if low < 0 else high}, but there are {count} {what}")


def check_seen(triangle_id: Tensor, triangles: Tensor) -> None:
    """Raises ValueError where fragments [F, H, W] see a triangle that is not there; kernels leave it out instead."""
    if not triangle_id.is_cuda and triangle_id.numel() and int(triangle_id.max()) >= len(triangles):
        raise ValueError(f"fragments hold a triangle beyond the {len(triangles)} of triangles: rasterise the same ones")


def check_intrinsics(Ks: Tensor, frames: int, dtypes: tuple[torch.dtype, ...], like: tuple[str, Tensor]) -> None:
    """Raises ValueError unless `Ks` is [frames, 3, 3], finite, with focal lengths above 0 and the last row (0, 0, 1).

    On a GPU the values are not looked at, as that means waiting for it.
    """
    check_tensor("Ks", Ks, (frames, 3, 3), dtypes, like, contiguous=False)
    if Ks.is_cuda or torch.compiler.is_compiling():
        return
    values = Ks.detach()
    if not bool(values.isfinite().all()):
        raise ValueError("Ks must be finite")
    if not torch.equal(values[:, 2], values.new_tensor([0, 0, 1]).expand(frames, 3)):
        raise ValueError("Ks must have the last row 0 0 1, as in [[fx, s, cx], [0, fy, cy], [0, 0, 1]]")
    if bool((values[:, (0, 1), (0, 1)] <= 0).any()):
        raise ValueError("Ks must have positive focal lengths, in pixels")


def check_size(name: str, size: int, largest: int | None = None) -> None:
    """Raises ValueError unless `size` is an int from 1 to `largest`."""
    if not isinstance(size, int) or isinstance(size, bool) or size < 1 or (largest is not None and size > largest):
        bound = "of at least 1" if largest is None else f"from 1 to {largest}"
        raise ValueError(f"{name} must be an int {bound}, not {size!r}")
