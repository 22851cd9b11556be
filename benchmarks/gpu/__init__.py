"""Measures on a GPU all that only a GPU can tell, part by part, in one call."""
