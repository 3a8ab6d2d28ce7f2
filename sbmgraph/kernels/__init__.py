"""Kernels: functions from tensors to tensors, one folder a concept, that know no data structure."""
