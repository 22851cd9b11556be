"""How good a model is against 3D scans, in the manner of the NoW challenge."""
