"""Files that survive a kill: one owner at a time, whole writes, renames that last."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shoal.errors import OutputLockedError, OutputWriteError


@contextmanager
def writes_to(path: Path) -> Iterator[None]:
    """Turn a refusal of the disk into `OutputWriteError`, which says how to go on."""
    try:
        yield
    except OSError as error:
        raise OutputWriteError(
            f"cannot write {path}: {error.strerror}. Results journaled so far are safe: mend that "
            "and run the same command again to resume."
        ) from error


def open_locked(path: Path) -> int:
    """Open or create `path` for reading and writing, and own it until the descriptor is closed.

    Raises:
        OutputLockedError: another process owns it.
        OutputWriteError: it cannot be created.
    """
    while True:
        with writes_to(path):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(fd, path):
                return fd
        except BlockingIOError:
            os.close(fd)
            raise OutputLockedError(
                f"another run is writing this output: it holds {path}. Wait for it to end, or "
                "choose another output."
            ) from None
        os.close(fd)  # its owner replaced the file between our opening and our locking it


def replace_locked(fd: int, path: Path, data: bytes) -> int:
    """Atomically give the owned file `path` other content; returns the new owned descriptor.

    Whatever happens, `path` holds either what it held before or all of `data`, and is owned by
    this process throughout. The old descriptor is closed on success.
    """
    temporary = with_suffix(path, ".new")
    with writes_to(temporary):
        new = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(new, fcntl.LOCK_EX | fcntl.LOCK_NB)
            write_at(new, data, 0)
            os.fsync(new)
            os.replace(temporary, path)
            sync_directory(path)
        except BaseException:
            os.close(new)
            with suppress(OSError):
                temporary.unlink()
            raise
    os.close(fd)
    return new


def write_at(fd: int, data: bytes | bytearray, offset: int) -> None:
    """Write all of `data`; the system may take it in several pieces."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def sync_directory(path: Path) -> None:
    """Make the renames and removals beside `path` last."""
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def with_suffix(path: Path, suffix: str) -> Path:
    """The file beside `path` whose name is longer by `suffix`."""
    return path.with_name(path.name + suffix)


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
