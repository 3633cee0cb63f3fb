"""Limits of a Hopper GPU (compute capability 9.0), from NVIDIA's tuning guide for it."""

SHARED_BYTES = 227 << 10
"""What a program may have of shared memory."""
