"""Pictures of faces, errors and reconstructions."""
