"""Converts videos to clips: decodes, detects and tracks faces, selects frames, writes shards."""
