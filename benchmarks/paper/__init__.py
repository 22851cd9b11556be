"""Measures the paper's claims on clips with ground truth: python -m benchmarks.paper --help."""
