"""The sizes of a training step of the preset "paper" that say how often a kernel's instructions run."""

from benchmarks.harness.sizes import DIMENSIONS, EXPRESSIONS, NODES, PAPER, WEIGHTS

SUBJECTS = PAPER.subjects
FRAMES = PAPER.frames
"""Frames of each."""
BASIS = DIMENSIONS["gpu"] * 3 * PAPER.mesh.vertices
"""Numbers of the reflectance basis."""
EXPRESSION_BASIS = EXPRESSIONS * 3 * PAPER.mesh.vertices
VERTICES_OF_SUBJECTS = SUBJECTS * PAPER.mesh.vertices
VERTICES_OF_FRAMES = PAPER.count * PAPER.mesh.vertices
TRIANGLES_OF_FRAMES = PAPER.count * PAPER.mesh.triangles
PIXELS_OF_FRAMES = PAPER.pixels
RING = 6.14
"""Most triangles around any of 128 vertices in a row, on average: a program goes on for its last lane."""
LARGE = 0.064 * TRIANGLES_OF_FRAMES
"""Work items of 4 x 4 pixels: those of the 6.1 % of triangles that do not fit the window of 2 x 2, most of them one."""
TILE_PROGRAMS = 132 * 8
"""Programs of the tile kernel on an H100."""
ENTRIES = WEIGHTS * PAPER.mesh.vertices / NODES
"""Vertices that a node moves."""
ENTRY_PASSES = 3.83
"""Blocks of 256 of these, on average over the nodes."""
