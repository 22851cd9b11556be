"""Converts the colours of HDR and wide-gamut videos, as phones film them, to sRGB.

HDR light is divided by that of diffuse white, 203 cd/m^2 (ITU-R BT.2408). In each channel what is brighter than three
quarters of it is compressed to stay below 1, so that faces keep their brightness and highlights become white.
Everything else is taken as sRGB already, wide gamuts apart, since screens show BT.709's curve about as sRGB's.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

# Code points of ITU-T H.273.
_PQ, _HLG = 16, 18
_TO_709 = {
    9: ((1.660491, -0.587641, -0.072850), (-0.124550, 1.132900, -0.008349), (-0.018151, -0.100579, 1.118730)),
    12: ((1.224940, -0.224940, 0.0), (-0.042057, 1.042057, 0.0), (-0.019638, -0.078636, 1.098274)),
}
"""Linear RGB of BT.2020 (9) and Display P3 (12) to linear RGB of BT.709, whose primaries sRGB has."""
_LUMA_2020 = (0.2627, 0.6780, 0.0593)
_DIFFUSE_WHITE, _HLG_PEAK = 203.0, 1000.0  # cd/m^2
_SHOULDER = 0.75  # of diffuse white
_STEPS = 65  # of the table along each channel, the most that Pillow takes


def to_srgb(codes: NDArray[np.uint8], transfer: int, primaries: int) -> NDArray[np.uint8]:
    """Converts pictures [H, W, 3] from a video's colour space to sRGB; those that are sRGB are returned as they are.

    transfer, primaries: TransferCharacteristics and ColourPrimaries of ITU-T H.273, as files store them.
    """
    if transfer not in (_PQ, _HLG) and primaries not in _TO_709:
        return codes
    return np.asarray(Image.fromarray(codes).filter(_table(transfer, primaries)))


@cache
def _table(transfer: int, primaries: int) -> ImageFilter.Color3DLUT:
    import torch  # here: help pages and processes that read no such video need none of it

    from fmlfast.color import linear_to_srgb, srgb_to_linear

    steps = np.linspace(0.0, 1.0, _STEPS)
    blue, green, red = np.meshgrid(steps, steps, steps, indexing="ij")  # red changes fastest
    codes = np.stack([red, green, blue], -1).reshape(-1, 3)
    hdr = transfer in (_PQ, _HLG)
    light = _hdr_light(codes, transfer) if hdr else srgb_to_linear(torch.from_numpy(codes)).numpy()
    light = (light @ np.array(_TO_709.get(primaries, np.eye(3))).T).clip(min=0.0)
    light = _compressed(light) if hdr else light.clip(max=1.0)
    return ImageFilter.Color3DLUT(_STEPS, linear_to_srgb(torch.from_numpy(light)).flatten().tolist())


def _hdr_light(codes: NDArray[np.float64], transfer: int) -> NDArray[np.float64]:
    """Decodes PQ or HLG codes [N, 3] in 0..1 to light, 1 for diffuse white."""
    if transfer == _PQ:  # ITU-R BT.2100, table 4
        root = codes ** (1 / 78.84375)
        ratio = (root - 0.8359375).clip(min=0) / (18.8515625 - 18.6875 * root)
        return 10_000 / _DIFFUSE_WHITE * ratio ** (1 / 0.1593017578125)
    # ITU-R BT.2100, table 5: inverse OETF, then OOTF of gamma 1.2
    scene = np.where(codes <= 0.5, codes**2 / 3, (np.exp((codes - 0.55991073) / 0.17883277) + 0.28466892) / 12)
    return _HLG_PEAK / _DIFFUSE_WHITE * scene * (scene @ np.array(_LUMA_2020))[:, None] ** 0.2


def _compressed(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bends light above the shoulder, so that any amount stays below 1; leaves what is below as it is."""
    room = 1 - _SHOULDER
    above = (light - _SHOULDER).clip(min=0)
    return np.minimum(light, _SHOULDER) + room * (1 - np.exp(-above / room))
