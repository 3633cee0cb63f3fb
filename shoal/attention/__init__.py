"""Segment attention: each query attends to an ordered list of KV segments.

One contract (`shoal.attention.contract`), several kernels: `reference` is the plain definition and
the oracle of the others; `native` calls the C++ kernel; `torch_cpu` is the fastest that plain torch
allows on a CPU, for machines where the C++ kernel was not built; `triton` runs on CUDA.
"""

from shoal.attention.backends import select_backend
from shoal.attention.contract import AttentionBackend, KVLayer, KVShape
from shoal.attention.kind import PLAIN, AttentionKind

__all__ = ["PLAIN", "AttentionBackend", "AttentionKind", "KVLayer", "KVShape", "select_backend"]
