"""Segment attention: each query attends to an ordered list of KV segments.

One contract (`shoal.attention.contract`), several kernels: `reference` is the plain definition and
the oracle of the others; `torch_cpu` is the fastest that plain torch allows on a CPU.
"""

from shoal.attention.backends import select_backend
from shoal.attention.contract import AttentionBackend

__all__ = ["AttentionBackend", "select_backend"]
