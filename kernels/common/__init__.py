"""What several operations share: backends, checks, caches, gathers, fixed-point sums, projection."""
