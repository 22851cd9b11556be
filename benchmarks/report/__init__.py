"""Writes docs/benchmarks.md from the rows: tables, plots, and where others are faster."""
