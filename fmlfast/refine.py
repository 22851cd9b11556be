"""Re-exports test-time refinement under its public path."""

from fmlfast.reconstruction.refinement import REFINEMENT as REFINEMENT
from fmlfast.reconstruction.refinement import refine as refine
