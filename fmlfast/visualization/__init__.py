"""Draws faces, errors, reconstructions and training curves."""
