"""The host's memory for large temporaries, kept from one forward to the next.

glibc returns a block of more than 32 MiB to the system when it is freed, so that the next one is
mapped anew: a page fault and a page of zeros for every 4 KiB. Logits are such blocks (256 rows of
a vocabulary of 151,936 take 156 MB in float32), and so is what a large model's MLP makes of a long
prefill. Kept, they made decoding with that vocabulary 11 % faster (docs/lab-notes.md).

`mallopt` and `malloc_trim`: https://man7.org/linux/man-pages/man3/mallopt.3.html
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_KEPT = 1 << 30
_MOST_UNUSED = (1 << 31) - 1
"""The most that fits the argument; more than that free at the end of the heap is returned."""


def keep_temporaries() -> None:
    """Have blocks of up to 1 GiB reused in this process, instead of mapped anew.

    Call it when what is to stay is allocated. Does nothing where the C library is not glibc, or
    another allocator stands in for its own.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
        mallopt(_M_TRIM_THRESHOLD, _MOST_UNUSED)


def return_temporaries() -> None:
    """Give unused memory back to the system, wherever in the heap it is."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))
