"""SIGKILL, at random moments and before every single write: no line is ever lost or doubled."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.job_files import ForkedProcess, chat
from tests.helpers.job_process import MIXED, Job
from tests.helpers.kills import run_with_kills

KILLS = 24


@pytest.mark.long
def test_random_kills(
    job: Job, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("tries", KILLS)
    lines = [*MIXED, *[chat(f"r{i}", f"request {i}", n=1 + i % 3) for i in range(150)]]
    job.write(lines)
    (tmp_path / "calm").mkdir()
    calm = Job(tmp_path / "calm", job.model).write(lines)
    calm.run()
    saved: list[int] = []

    def start() -> ForkedProcess:
        saved.append(job.journal.stat().st_size if job.journal.exists() else 0)
        seconds = 0.0 if len(saved) > KILLS else 0.25
        return ForkedProcess(lambda: job.run(engine={"seconds": seconds, "width": 2}).exit_code)

    rng = random.Random(5)

    def ready() -> bool:
        """By turns at once, and when a result is saved: a busy machine is slow to start."""
        return len(saved) % 2 == 0 or (
            job.journal.exists() and job.journal.stat().st_size > saved[-1]
        )

    report = run_with_kills(start, kills=KILLS, longest_seconds=0.8, rng=rng, ready=ready)
    assert (report.kills, report.exit_code) == (KILLS, 3)
    assert saved[-1] > 5000, "the runs that were killed did not bring the job forward"
    assert job.answers() == calm.answers()
    assert len(job.answers()) == len(lines)
    assert job.run().already_finished


WRITES = ("pwrite", "fsync", "replace", "unlink", "ftruncate")


def kill_at_write(number: int, torn: bool) -> None:
    """In this process, die at the `number`-th call that changes files, perhaps half way."""
    count = 0

    def dying(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == number:
                if torn and name == "pwrite":
                    fd, data, offset = arguments
                    real(fd, bytes(data)[: len(data) // 2], offset)
                elif torn:
                    real(*arguments, **options)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return call

    for name in WRITES:
        setattr(os, name, dying(name, getattr(os, name)))


@pytest.mark.long
@pytest.mark.parametrize("torn", [False, True])
def test_a_kill_at_each_write(
    job: Job, torn: bool, record_property: Callable[[str, object], None]
) -> None:
    job.write(MIXED).run()
    expected = job.answers()
    outputs = (job.output, job.errors, job.journal)
    for number in range(1, 100):
        for path in outputs:
            path.unlink(missing_ok=True)

        def killed(number: int = number) -> int:
            kill_at_write(number, torn)
            return job.run().exit_code

        code = ForkedProcess(killed).wait()
        assert code in (3, -signal.SIGKILL)
        if code == 3:
            break
        assert not job.output.exists() or job.answers() == expected
        result = job.run()
        assert result.exit_code == 3
        assert job.answers() == expected
        assert not [path for path in job.folder.iterdir() if path.name.startswith(".")]
    assert number > 10
    record_property("tries", number - 1)
