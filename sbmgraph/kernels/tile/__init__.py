"""Attention over edges held as one bit a pair, in tiles."""
