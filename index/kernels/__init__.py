"""Kernels: functions of arrays and scalars, compiled by Numba; no classes, no strings, no printing."""
