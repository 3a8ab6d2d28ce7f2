"""Tools of the Triton kernels."""
