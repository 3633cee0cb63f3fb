"""Whole commands as real processes, started fast.

A fork server imports torch and transformers once, without computing anything; each command then
runs `shoal.cli.main` in a child of its own, which can be killed like any process.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["shoal.cli", "shoal.jobs", "shoal.tables", "shoal.devices"])


def _child(arguments: Sequence[str], folder: str) -> None:
    os.setsid()
    os.chdir(folder)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.argv = ["shoal", *arguments]
    from shoal.cli import main

    main()


@dataclass
class Command:
    """A running `shoal` command; `pid` and `poll` as of `subprocess.Popen`."""

    process: ForkServerProcess

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, seconds: float = 300) -> int:
        self.process.join(seconds)
        assert self.process.exitcode is not None, "the command did not end"
        return self.process.exitcode


@dataclass
class Shoal:
    """Runs `shoal` in a folder."""

    folder: Path

    def start(self, *arguments: object) -> Command:
        process = _CONTEXT.Process(
            target=_child, args=([str(a) for a in arguments], str(self.folder)), daemon=True
        )
        process.start()
        return Command(process)

    def __call__(self, *arguments: object) -> int:
        """The exit code; what it printed is in `stdout` and `stderr` of the folder."""
        for name in ("stdout", "stderr"):
            (self.folder / name).unlink(missing_ok=True)
        return self.start(*arguments).wait()

    def write(self, name: str, lines: Sequence[bytes | dict[str, Any]]) -> Path:
        encoded = [x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines]
        path = self.folder / name
        path.write_bytes(b"".join(line + b"\n" for line in encoded))
        return path

    def read(self, name: str) -> list[dict[str, Any]]:
        path = self.folder / name
        return [json.loads(line) for line in path.read_bytes().splitlines()]

    def text(self, name: str) -> str:
        return (self.folder / name).read_text()


@pytest.fixture
def shoal(tmp_path: Path) -> Shoal:
    return Shoal(tmp_path)
