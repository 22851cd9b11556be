"""Generated people, rendered, with ground truth."""
