"""Re-exports `write_mesh` under its public path."""

from fmlfast.mesh_io import write_mesh as write_mesh
