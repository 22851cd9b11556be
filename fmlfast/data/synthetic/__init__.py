"""Generated people, filmed by the renderer, with ground truth."""
