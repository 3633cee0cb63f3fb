"""Files that survive a kill: one owner at a time, whole writes, renames that last."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from shoal.errors import OutputExistsError, OutputLockedError, OutputWriteError


@dataclass(frozen=True, slots=True)
class ContentDigest:
    """What a file held: 128 bits of BLAKE2b in hexadecimal, and its size."""

    hexdigest: str
    size_bytes: int


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


class NewFile:
    """Content for `path`, written under a name of ours beside it and renamed when it is whole.

    The temporary file is owned like `open_locked`'s. One that a kill left behind is written over;
    another's file of that name is refused. Leaving the block without `put_in_place` removes it.

    Args:
        begins: how the content always begins, by which a file that was left behind is known.

    Raises:
        OutputLockedError: another process is writing for `path`.
        OutputExistsError: the temporary name is taken by a file that is not ours.
        OutputWriteError: the disk refuses, here or in any method.
    """

    def __init__(self, path: Path, begins: bytes) -> None:
        self.path = path
        self.temporary = temporary_of(path)
        self.fd = open_locked(self.temporary)
        self._hash = hashlib.blake2b(digest_size=16)
        self._size = 0
        self._in_place = False
        head = os.pread(self.fd, len(begins), 0)
        if head not in (b"", begins):
            os.close(self.fd)
            raise OutputExistsError(
                f"{self.temporary} is in the way: this name is for what is written to {path}, and "
                "the file there is something else. Move it away."
            )
        with writes_to(path):
            os.ftruncate(self.fd, 0)
        self._file = os.fdopen(self.fd, "wb", closefd=False)

    def __enter__(self) -> NewFile:
        return self

    def __exit__(self, *error: object) -> None:
        if not self._in_place:
            with suppress(OSError):
                self.temporary.unlink()
            with suppress(OSError):  # what is buffered, perhaps after the disk refused
                self._file.close()
        os.close(self.fd)

    @property
    def is_open(self) -> bool:
        """Whether it may be written to: the block has not been left."""
        return not self._file.closed

    def write(self, data: bytes) -> None:
        """Append."""
        self._hash.update(data)
        self._size += len(data)
        with writes_to(self.path):
            self._file.write(data)

    def sync(self) -> ContentDigest:
        """Make what was written last, still under the temporary name."""
        with writes_to(self.path):
            self._file.flush()
            os.fsync(self.fd)
        return ContentDigest(self._hash.hexdigest(), self._size)

    def put_in_place(self) -> None:
        """Rename it, after `sync`."""
        with writes_to(self.path):
            os.replace(self.temporary, self.path)
            sync_directory(self.path)
        self._in_place = True


def replace_locked(fd: int, path: Path, data: bytes, begins: bytes) -> int:
    """Atomically give the owned file `path` other content; returns the new owned descriptor.

    Whatever happens, `path` holds either what it held before or all of `data`, and is owned by
    this process throughout. The old descriptor is closed on success.
    """
    with NewFile(path, begins) as new:
        new.write(data)
        new.sync()
        owned = fcntl.fcntl(new.fd, fcntl.F_DUPFD_CLOEXEC, 0)  # shares the lock
        try:
            new.put_in_place()
        except BaseException:
            os.close(owned)
            raise
    os.close(fd)
    return owned


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


def temporary_of(path: Path) -> Path:
    """The name under which content for `path` is written; names that end so are ours."""
    return path.with_name(f".{path.name}.shoal-tmp")


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
