"""What kernels with a lane a vertex share: which frame and vertices a program has, vectors of three, rows of four."""
# Pyright does not know that functions of a kernel return something.
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportArgumentType=false

import triton
import triton.language as tl


@triton.jit
def load3(ptr, mask):
    """Loads the vectors at ptr, 0 where masked."""
    return tl.load(ptr, mask, 0.0), tl.load(ptr + 1, mask, 0.0), tl.load(ptr + 2, mask, 0.0)


@triton.jit
def store3(ptr, x, y, z, mask):
    """Stores vectors at ptr, a component at a time: every sector of memory goes out three times."""
    tl.store(ptr, x, mask)
    tl.store(ptr + 1, y, mask)
    tl.store(ptr + 2, z, mask)


@triton.jit
def store3_together(ptr, x, y, z, mask):
    """Stores vectors at ptr, every sector once; it takes more registers."""
    joined = tl.reshape(tl.join(tl.join(x, z), tl.join(y, z)), (x.shape[0], 4))
    column = tl.arange(0, 4)[None, :]
    tl.store(ptr[:, None] + column, joined, mask=mask[:, None] & (column < 3))


@triton.jit
def load_row(rows_ptr, row, mask):
    """Loads four floats of rows of memory, by one load of 128 bits a lane; 0 where the mask is off."""
    at = (rows_ptr + row.to(tl.int64) * 4)[:, None] + tl.arange(0, 4)[None, :]
    values = tl.load(at, mask=mask[:, None], other=0.0)
    even, odd = tl.split(tl.reshape(values, (row.shape[0], 2, 2)))
    a, c = tl.split(even)
    b, d = tl.split(odd)
    return a, b, c, d


@triton.jit
def store_row(rows_ptr, row, values, mask):
    """Stores what `load_row` loads."""
    a, b, c, d = values
    joined = tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), (row.shape[0], 4))
    tl.store((rows_ptr + row.to(tl.int64) * 4)[:, None] + tl.arange(0, 4)[None, :], joined, mask=mask[:, None])


@triton.jit
def load_pair(pairs_ptr, pair, mask):
    """Loads two numbers that stand together, by one load a lane; 0 where the mask is off."""
    at = (pairs_ptr + pair.to(tl.int64) * 2)[:, None] + tl.arange(0, 2)[None, :]
    return tl.split(tl.load(at, mask=mask[:, None], other=0))


@triton.jit
def lanes_of_frame(vertices, BLOCK: tl.constexpr):
    """Finds the frame, the block in it and the vertices of this program, and which of its lanes have one."""
    blocks = tl.cdiv(vertices, BLOCK)
    program = tl.program_id(0)
    block = program % blocks
    vertex = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return (program // blocks).to(tl.int64), block, vertex, vertex < vertices
