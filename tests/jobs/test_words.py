"""What the system refuses is told in words: what, where, what to do; never a traceback."""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from shoal.cli import app
from shoal.commands.exit_codes import errors_as_exit_codes
from tests.helpers.job_files import ForkedProcess, completion, write_lines
from tests.helpers.job_process import MIXED, Job

LONG = "x" * 300
LOOP, TOO_LONG, NUL = "Too many levels of symbolic links", "File name too long", "null byte"
WRITTEN = [
    (("loop",), LOOP),
    ((LONG,), TOO_LONG),
    (("y" * 250,), TOO_LONG),  # what is written beside it has longer names
    (("a\0b",), NUL),
    (("dir",), "it is a folder"),
    (("in.jsonl/o",), "there is no folder in.jsonl"),
    (("o", "--errors", "loop"), LOOP),
    (("o", "--errors", LONG), TOO_LONG),
    (("o", "--summary", "loop"), LOOP),
    (("o", "--report", "loop"), LOOP),
    (("o", "--report", LONG), TOO_LONG),
    (("o", "--model", LONG), TOO_LONG),
]
READ = [
    ("loop", LOOP),
    (LONG, TOO_LONG),
    ("a\0b", NUL),
    ("dir", "is a folder"),
    ("in.jsonl/x", "Not a directory"),
    ("/dev/zero", "not a regular file"),
]
COMMANDS = [
    *((("run", "in.jsonl", "-o", *rest), says) for rest, says in WRITTEN),
    *((("run", name, "-o", "o"), says) for name, says in READ),
    *((("plan", name), says) for name, says in READ),
    (("plan", "in.jsonl", "--html", "loop"), LOOP),
    (("plan", "in.jsonl", "--results", "loop"), LOOP),
    (("run", "--table", "loop", "--template", "t", "-o", "o"), LOOP),
    (("run", "--table", "t.csv", "--template", LONG, "-o", "o"), TOO_LONG),
]


@pytest.mark.parametrize(("arguments", "says"), COMMANDS)
def test_paths_the_system_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    os.symlink("loop", "loop")
    os.mkdir("dir")
    write_lines(Path("in.jsonl"), [completion("a", model="shoal-tiny")])
    before = sorted(os.listdir())
    result = CliRunner().invoke(app, list(arguments))
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code in (1, 2)
    assert says in result.output
    assert sorted(os.listdir()) == before


def test_few_file_descriptors(job: Job) -> None:
    """Wherever the next one is refused, the job ends in words, and goes on when there are more."""
    (job.folder / "calm").mkdir()
    calm = Job(job.folder / "calm", job.model).write(MIXED)
    calm.run()
    job.write(MIXED)

    def run_with(more: int) -> int:
        used = max(int(name) for name in os.listdir("/proc/self/fd")) + 20
        resource.setrlimit(resource.RLIMIT_NOFILE, (used, used))
        taken = []
        with suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        for fd in taken[:more]:
            os.close(fd)
        try:
            with errors_as_exit_codes():
                return job.run().exit_code
        except typer.Exit as ended:
            return 10 + ended.exit_code

    codes = []
    for more in range(14):
        codes.append(ForkedProcess(lambda more=more: run_with(more)).wait())
        if codes[-1] == 3:
            break
    assert codes[0] in (11, 12)
    assert codes[-1] == 3
    assert set(codes) <= {11, 12, 3}
    assert job.run().exit_code == 3
    assert job.answers() == calm.answers()
