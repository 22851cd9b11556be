"""Videos to clips: decode, find and follow faces, choose frames, write shards."""
