"""Memory that ran out: how it shows, and what to say of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from shoal.errors import ModelLoadError

_SIGNS = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")
"""What libraries say that have no exception of their own for it."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, which smaller batches may mend."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if isinstance(error, OSError):  # mmap of a file
        return "Cannot allocate memory" in str(error)
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


@contextmanager
def enough_memory(purpose: str, remedy: str) -> Iterator[None]:
    """Raise `ModelLoadError` with a remedy if memory runs out in this block."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise ModelLoadError(f"memory ran out {purpose}: {remedy}.") from error
