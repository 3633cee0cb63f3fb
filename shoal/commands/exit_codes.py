"""Errors as what a shell sees of them: one line, and an exit code."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from shoal.errors import Interrupted, OptionError, ShoalError

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


@contextmanager
def errors_as_exit_codes() -> Iterator[None]:
    """Turn our errors into one line on standard error and the exit code that says their kind."""
    try:
        yield
    except Interrupted as interruption:
        code, message = EXIT_INTERRUPTED, str(interruption)
    except OptionError as error:
        code, message = EXIT_USAGE, str(error)
    except ShoalError as error:
        code, message = EXIT_FAILED, str(error)
    except OSError as error:  # whatever the system refuses has a file and a reason
        code, message = EXIT_FAILED, _in_words(error)
    else:
        return
    typer.echo(f"shoal: {message}", err=True)
    raise typer.Exit(code)


def _in_words(error: OSError) -> str:
    where = "" if error.filename is None else f" {str(error.filename)[:300]!r}"
    what = f"the system refused{where}: {error.strerror or error}."
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{what} Allow more open files: ulimit -n 1024"
    return f"{what} When that is mended, run the same command again."
