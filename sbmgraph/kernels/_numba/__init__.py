"""Tools of the compiled CPU kernels."""
