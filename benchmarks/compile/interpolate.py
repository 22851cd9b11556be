"""How the kernels of `interpolate` are launched: for one channel, for colours, for features."""

from fmlfast.kernels.interpolate_triton import interpolate_bwd_kernel, interpolate_fwd_kernel, interpolate_peak_kernel

from . import Case

_SIZES = {1: (1, 512), 3: (4, 128), 64: (16, 32)}  # channels: channel block, pixels


def _case(kernel: object, types: str, size: int, channels: int, variant: str = "", **needs: bool) -> Case:
    channel_block, block = _SIZES[channels]
    sizes = {"CHANNELS": channels, "BLOCK": block, "CHANNEL_BLOCK": channel_block}
    name = f"C={channels}{variant}"
    return Case(kernel, types, sizes | needs, size, "pixel", variant=name, options={"num_warps": 4})


def _backward(channels: int, variant: str, attributes: bool, barycentrics: bool) -> Case:
    types = "*fp32 *i32 *i32 *fp32 *fp32 *fp32 *i64 *fp32 i32 i32 i32"
    size = 4 + 4 * channels + 12 * attributes + 12 * barycentrics
    needs = {"TO_ATTRIBUTES": attributes, "TO_BARYCENTRICS": barycentrics}
    return _case(interpolate_bwd_kernel, types, size, channels, variant, **needs)


CASES = [
    *(_case(interpolate_fwd_kernel, "*fp32 *i32 *i32 *fp32 *fp32 i32 i32 i32", 16 + 4 * c, c) for c in _SIZES),
    *(_case(interpolate_peak_kernel, "*i32 *fp32 *fp32 *i32 i32 i32", 16 + 4 * c, c) for c in _SIZES),
    *(_backward(c, "", True, True) for c in _SIZES),
    _backward(3, " to attributes", True, False),
    _backward(3, " to barycentrics", False, True),
]
