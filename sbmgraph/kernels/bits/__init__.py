"""Sampled graphs with one bit for each pair of a query and a key."""

from sbmgraph.kernels.bits.layout import (
    Bits,
    empty_bits,
    num_rows,
    row_starts,
    unpack,
    word_pointers,
)
from sbmgraph.kernels.bits.operator import bits_to_csr, csr_to_bits, degrees

__all__ = [
    "Bits",
    "bits_to_csr",
    "csr_to_bits",
    "degrees",
    "empty_bits",
    "num_rows",
    "row_starts",
    "unpack",
    "word_pointers",
]
