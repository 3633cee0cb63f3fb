"""Which rows of a batch a module computes while it computes them a block at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_BLOCK: ContextVar[tuple[int, int] | None] = ContextVar("row_block", default=None)


@contextmanager
def row_block(first: int, rows: int) -> Iterator[None]:
    """Within this block, products see rows from `first` on, of so many in all."""
    token = _BLOCK.set((first, rows))
    try:
        yield
    finally:
        _BLOCK.reset(token)


def rows_under_way(rows: int) -> tuple[int, int]:
    """The first of the rows that a product sees, and how many there are in all.

    Args:
        rows: that it sees.
    """
    return _BLOCK.get() or (0, rows)
