"""Small helpers that know nothing of faces."""
