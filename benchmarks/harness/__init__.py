"""Checks an operation against float64 and times it: cases, scenes, providers, timing, rows."""
