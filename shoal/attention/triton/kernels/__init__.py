"""The launches: `attend` (its tiles in `tall`, `short`, `parts`), `merge`, `store`."""

from shoal.attention.triton.kernels.attend import attend
from shoal.attention.triton.kernels.merge import merge
from shoal.attention.triton.kernels.store import store

__all__ = ["attend", "merge", "store"]
