"""Shoal and its peers side by side: `python -m benchmarks` (see `make bench`)."""
