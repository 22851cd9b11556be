"""Evaluates models against 3D scans, by the protocol of the NoW challenge."""
