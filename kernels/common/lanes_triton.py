"""What kernels with a lane a vertex share: which frame and vertices a program has, and vectors of three floats."""
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
    """Stores vectors at ptr."""
    tl.store(ptr, x, mask)
    tl.store(ptr + 1, y, mask)
    tl.store(ptr + 2, z, mask)


@triton.jit
def lanes_of_frame(vertices, BLOCK: tl.constexpr):
    """Finds the frame, the block in it and the vertices of this program, and which of its lanes have one."""
    blocks = tl.cdiv(vertices, BLOCK)
    program = tl.program_id(0)
    block = program % blocks
    vertex = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return (program // blocks).to(tl.int64), block, vertex, vertex < vertices
