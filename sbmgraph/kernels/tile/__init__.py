"""Attention over edges in bits, tile by tile."""
