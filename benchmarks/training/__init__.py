"""Measures a training step: its time, floors, stages, memory, and the clips that feed it."""
