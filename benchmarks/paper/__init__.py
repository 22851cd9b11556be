"""Studies of what the method does and why, with ground truth: python -m benchmarks.paper --help."""
