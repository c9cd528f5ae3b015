"""A deterministic simulator of the money path: a seed in, a story out."""
