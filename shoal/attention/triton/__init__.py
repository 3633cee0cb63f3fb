"""Segment attention on CUDA, in Triton: everything a batch attends to, in one launch a layer.

`plan` turns a work list into tasks (pure arithmetic), `buffers` brings them to the device in one
copy, `kernels` has the launches, `tiles` says how large a tile is, `backend` is the whole.
Importing this package imports triton.
"""

from shoal.attention.triton.backend import TritonAttention
from shoal.attention.triton.buffers import Capacity, FixedWork
from shoal.attention.triton.tiles import Tiles

__all__ = ["Capacity", "FixedWork", "Tiles", "TritonAttention"]
