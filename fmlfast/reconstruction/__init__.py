"""Photos and videos of one person to a face."""
