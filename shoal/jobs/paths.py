"""The files of a job: which they are, that no two are one, and that each can be what it is for."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from shoal.disk import temporary_of, with_suffix
from shoal.errors import OptionError
from shoal.jobs.spec import JobSpec

_REMEDY = "Give another path"


@dataclass(frozen=True)
class JobPaths:
    """The files of a job, absolute and with links followed.

    Attributes:
        input: the batch file that is read.
        output: always made, and empty when no request succeeded.
        errors: made only when a request failed.
        journal: beside the output; stays as a small marker when the job has finished.
        requests: beside the output; the batch file of a job whose requests come from elsewhere.
    """

    input: Path
    output: Path
    errors: Path
    journal: Path
    requests: Path

    @classmethod
    def resolve(
        cls,
        spec: JobSpec,
        source: Path | None,
        reads: Mapping[str, Path],
    ) -> JobPaths:
        """The job's files, all of them checked before anything is read or written.

        Without `errors`, results.jsonl has results.errors.jsonl beside it, and results.fp32 has
        results.fp32.errors.jsonl.

        Args:
            source: the batch file; None when the requests come from elsewhere, and are read from
                `requests`.
            reads: further files of the command, by what messages call them.

        Raises:
            OptionError: two of the files are one, or one cannot be written.
        """
        out = resolved(spec.output, "the output")
        _check_kind(spec.output, "the output")
        if spec.errors is None:
            err = out.with_name(f"{out.name.removesuffix('.jsonl')}.errors.jsonl")
        else:
            _check_kind(spec.errors, "--errors")
            err = resolved(spec.errors, "--errors")
        requests = with_suffix(out, ".requests.jsonl")
        read = requests if source is None else resolved(source, "the input")
        paths = cls(read, out, err, with_suffix(out, ".journal"), requests)
        made = {"the output": out, "the errors file": err, "the journal": paths.journal}
        if source is None:
            made["the requests"] = requests
        else:
            reads = {"the input": read, **reads}
        temporary = {f"the temporary file of {name}": temporary_of(p) for name, p in made.items()}
        check_files(reads, made | temporary | dict(spec.also_written))
        return paths


def check_files(reads: Mapping[str, Path], writes: Mapping[str, Path]) -> None:
    """Refuse files that cannot be written, and a file written that is read or written besides.

    Raises:
        OptionError: names the files by the keys given.
    """
    for name, path in writes.items():
        _check_kind(path, name)
    for folder in dict.fromkeys(resolved(path, name).parent for name, path in writes.items()):
        _try_folder(folder)
    seen = {name: resolved(path, name) for name, path in reads.items()}
    for name, given in writes.items():
        path = resolved(given, name)
        for other, taken in seen.items():
            if _same(path, taken):
                raise OptionError(
                    f"{name} and {other} must be different files, not both {path}. {_REMEDY}."
                )
        seen[name] = path


def check_written(path: Path, name: str) -> dict[str, Path]:
    """Refuse a file that is written in place, after all else, and cannot be.

    Returns:
        The file by its name, to be compared with others; nothing for a pipe or a device.

    Raises:
        OptionError: it is a folder, may not be written, or its folder is missing.
    """
    target = resolved(path, name)
    if path.exists() and not target.is_file() and not target.is_dir():
        return {}
    check_files({}, {name: path})
    if path.exists() and not os.access(path, os.W_OK):
        raise OptionError(f"cannot write {path} ({name}): Permission denied. {_REMEDY}.")
    return {name: path}


def check_folder(path: Path, name: str) -> None:
    """Refuse a folder that is neither there nor can be made.

    Raises:
        OptionError: something else stands in its place, or it may not be written.
    """
    folder = resolved(path, name)
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise OptionError(f"cannot make the folder {path} ({name}): {folder} is a file. {_REMEDY}.")
    _try_folder(folder)


def resolved(path: str | Path, name: str) -> Path:
    """The absolute path with links followed; the file need not exist.

    Raises:
        OptionError: no file can be called so.
    """
    try:
        with suppress(FileNotFoundError):
            Path(path).stat()
        return Path(path).resolve()
    except NotADirectoryError:
        raise OptionError(
            f"cannot use {path} as {name}: there is no folder {Path(path).parent}. {_REMEDY}."
        ) from None
    except (OSError, ValueError, RuntimeError) as error:
        why = (isinstance(error, OSError) and error.strerror) or str(error)
        raise OptionError(f"cannot use {str(path)!r} as {name}: {why}. {_REMEDY}.") from error


def _check_kind(path: Path, name: str) -> None:
    """A file that is written must be a regular one, or be missing from a folder that is there."""
    target = resolved(path, name)
    why = None
    if path.exists():
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            why = "it is a folder"
        elif not stat.S_ISREG(mode):
            why = "it is a pipe or a device, and a file is renamed into its place when it is whole"
    elif not target.parent.is_dir():
        why = f"there is no folder {target.parent}"
    if why is not None:
        raise OptionError(f"cannot write {path} ({name}): {why}. {_REMEDY}.")


def _try_folder(folder: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OptionError(f"cannot write in {folder}: {error.strerror}. {_REMEDY}.") from error


def _same(one: Path, other: Path) -> bool:
    try:
        return one == other or one.samefile(other)
    except OSError:  # one of them is missing
        return False
