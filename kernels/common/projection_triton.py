"""The pinhole camera for kernels: the functions of `projection`, with the same order of operations."""
# Pyright does not know that functions of a kernel return something.
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportArgumentType=false

import triton
import triton.language as tl


@triton.jit
def load_camera(
    Ks_ptr,  # [F, 3, 3]
    frame,
):
    """Loads the first two rows of a frame's K: fx, s, cx, 0, fy, cy."""
    k = Ks_ptr + frame * 9
    return tl.load(k), tl.load(k + 1), tl.load(k + 2), tl.load(k + 3), tl.load(k + 4), tl.load(k + 5)


@triton.jit
def project(camera, x, y, inverse, w):
    """Projects points to pixel coordinates, homogeneous ones if w is not 1: K (x, y, z) * inverse."""
    k00, k01, k02, k10, k11, k12 = camera
    x, y = x * inverse, y * inverse
    return k00 * x + k01 * y + k02 * w, k10 * x + k11 * y + k12 * w


@triton.jit
def image_offset(camera, x, y):
    """Multiplies points by the focal lengths; divided by z, offsets from the principal point in pixels."""
    return camera[0] * x + camera[1] * y, camera[4] * y
