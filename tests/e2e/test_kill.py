"""kill -9 of the real command on the real model: nothing lost, nothing doubled, same answers."""

import random
import time
from collections.abc import Callable

from tests.e2e.conftest import Command, Shoal
from tests.e2e.test_run import answers
from tests.helpers.e2e_jobs import mixed
from tests.helpers.kills import run_with_kills

KILLS = 22


def calm_run(shoal: Shoal, options: tuple[str, ...]) -> tuple[float, float]:
    """An uninterrupted run into calm.jsonl: seconds to its first saved result, and from there."""
    journal = shoal.folder / "calm.jsonl.journal"
    began = first = time.monotonic()
    process = shoal.start("run", "in.jsonl", "-o", "calm.jsonl", *options)
    while process.poll() is None:
        if first == began and journal.exists() and b" done " in journal.read_bytes():
            first = time.monotonic()
        time.sleep(0.01)
    assert process.poll() == 3
    return first - began, time.monotonic() - first


def test_random_kills(shoal: Shoal, record_property: Callable[[str, object], None]) -> None:
    shoal.write("in.jsonl", mixed(400, seed=2))
    options = ("--dtype", "float32", "--device", "cpu", "--quiet", "--token-budget", "64")
    startup, work = calm_run(shoal, options)
    output, errors = shoal.folder / "out.jsonl", shoal.folder / "out.errors.jsonl"
    journal = shoal.folder / "out.jsonl.journal"
    sizes: list[int] = []
    command = ("run", "in.jsonl", "-o", "out.jsonl", *options)

    def size() -> int:
        return journal.stat().st_size if journal.exists() else 0

    def start() -> Command:
        sizes.append(size())
        return shoal.start(*command)

    # By turns while it starts, which takes longest, and once it has saved a result of its own.
    def at_work() -> bool:
        return len(sizes) % 2 == 0

    def ready() -> bool:
        return size() > sizes[-1] if at_work() else journal.exists()

    def longest_seconds() -> float:
        return work / 3 if at_work() else startup

    kills, rng = 0, random.Random(7)
    while kills < KILLS:  # a run that ends before its kill is checked, and the job done again
        for path in (output, errors, journal):
            path.unlink(missing_ok=True)
        report = run_with_kills(
            start,
            kills=KILLS - kills,
            longest_seconds=longest_seconds,
            rng=rng,
            ready=ready,
        )
        kills += report.kills
        assert report.exit_code == 3
        assert answers(shoal.read("out.jsonl")) == answers(shoal.read("calm.jsonl"))
        assert answers(shoal.read("out.errors.jsonl")) == answers(shoal.read("calm.errors.jsonl"))
    record_property("tries", kills)
    assert len(set(sizes)) > 3, f"no run that was killed brought the job forward: {sizes}"
