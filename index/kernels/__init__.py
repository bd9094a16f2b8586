"""Kernels: functions of arrays and scalars, compiled by Numba."""
