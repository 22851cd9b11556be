"""Evaluates models on clips with ground truth, on real clips and on 3D scans."""
