"""Provides helpers that are independent of faces: files, processes, tensors, CUDA graphs."""
