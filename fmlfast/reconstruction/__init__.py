"""Reconstructs one person's face from photos and videos."""
