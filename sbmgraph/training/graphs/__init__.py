"""Long-range node classification on generated graphs: SBM attention beside local, dense, linear and
fixed sparse attention."""
