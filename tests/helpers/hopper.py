"""Limits of a Hopper GPU (compute capability 9.0), from NVIDIA's tuning guide for it."""

SHARED_BYTES = 227 << 10
"""What a program may have of shared memory."""
FULL_SHARED_BYTES = 228 << 10
"""Of a multiprocessor; a program takes 1 KiB beyond what it asks for."""
REGISTERS = 65_536
"""Of a multiprocessor, 32 bits each."""
