"""Defines the learned model: encoder, face model and landmark fits (paper sections 3 and 4)."""
