"""Cube maps for kernels: the functions of `texture_cube_torch`, and where gradients on a face go."""
# Pyright does not know that functions of a kernel return something.
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportArgumentType=false

import triton
import triton.language as tl


@triton.jit
def face_of(x, y, z):
    """Finds the face that directions meet, 0 to 5; of coordinates of one size x comes before y before z."""
    on_x = (tl.abs(x) >= tl.abs(y)) & (tl.abs(x) >= tl.abs(z))
    on_y = tl.abs(y) >= tl.abs(z)
    axis = tl.where(on_x, 0, tl.where(on_y, 1, 2))
    largest = tl.where(on_x, x, tl.where(on_y, y, z))
    return 2 * axis + (largest < 0).to(tl.int32)


@triton.jit
def on_face(face, x, y, z):
    """Turns x, y, z into s and t along the face's axes and m towards it; also a direction's derivative."""
    flipped, axis = 1 - 2 * (face % 2), face // 2
    s = tl.where(axis == 0, -flipped * z, tl.where(axis == 1, x, flipped * x))
    t = tl.where(axis == 1, flipped * z, -y)
    return s, t, flipped * tl.where(axis == 0, x, tl.where(axis == 1, y, z))


@triton.jit
def off_face(face, s, t, m):
    """Turns s, t, m back into x, y and z; also gradients, as this is orthogonal."""
    flipped, axis = 1 - 2 * (face % 2), face // 2
    x = tl.where(axis == 0, flipped * m, tl.where(axis == 1, s, flipped * s))
    y = tl.where(axis == 1, flipped * m, -t)
    z = tl.where(axis == 2, flipped * m, tl.where(axis == 0, -flipped * s, flipped * t))
    return x, y, z


@triton.jit
def across_edge(face, row, column, size):
    """Finds a texel's place in its level's table, on the next face where it is one beyond an edge, -1 beyond two."""
    s, t = 2 * column + 1 - size, 2 * row + 1 - size  # half texels from the face's centre, inside below `size`
    over_s, over_t = tl.abs(s) > size, tl.abs(t) > size
    over = over_s | over_t
    # Folded over the edge; inside, `size` towards the face is the largest of the three and so leads back.
    s, t = tl.minimum(tl.maximum(s, -size), size), tl.minimum(tl.maximum(t, -size), size)
    x, y, z = off_face(face, s, t, size - over.to(tl.int32))
    face = face_of(x, y, z)
    s, t, _ = on_face(face, x, y, z)
    column, row = tl.maximum(s + size - 1, 0) // 2, tl.maximum(t + size - 1, 0) // 2
    return tl.where(over_s & over_t, -1, (face.to(tl.int64) * size + row) * size + column)


@triton.jit
def face_slopes(s, t, m, dx, dy):
    """Turns derivatives (ds, dt, dm) of a direction by the picture's X and Y into those of u and v on the face."""
    half = 0.5 / m
    ux, uy = (dx[0] - s * dx[2]) * half, (dy[0] - s * dy[2]) * half
    vx, vy = (dx[1] - t * dx[2]) * half, (dy[1] - t * dy[2]) * half
    return ux, uy, vx, vy
