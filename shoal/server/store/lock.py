"""The data directory, which one server at a time uses."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shoal.errors import OptionError


@contextmanager
def data_directory(path: Path) -> Iterator[Path]:
    """The directory, absolute, made if it is missing, and locked in this block.

    Raises:
        OptionError: it cannot be made or written, or another server uses it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        root = path.resolve()
        lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise OptionError(f"cannot use {path} as --data-dir: {error.strerror}.") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            why = "another server uses it. Stop that, or choose another directory"
            raise OptionError(f"cannot use {path} as --data-dir: {why}.") from None
        yield root
    finally:
        os.close(lock)
