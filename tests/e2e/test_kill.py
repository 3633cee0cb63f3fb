"""kill -9 of the real command on the real model: nothing lost, nothing doubled, same answers."""

import random
import time

from tests.e2e.conftest import Command, Shoal
from tests.e2e.jobs import mixed
from tests.e2e.test_run import answers
from tests.kills import run_with_kills

KILLS = 22


def test_random_kills(shoal: Shoal) -> None:
    shoal.write("in.jsonl", mixed(400, seed=2))
    options = ("--dtype", "float32", "--device", "cpu", "--quiet", "--token-budget", "64")
    began = time.monotonic()
    assert shoal("run", "in.jsonl", "-o", "calm.jsonl", *options) == 3
    calm_seconds = time.monotonic() - began
    output, errors = shoal.folder / "out.jsonl", shoal.folder / "out.errors.jsonl"
    journal = shoal.folder / "out.jsonl.journal"
    sizes: list[int] = []

    def start() -> Command:
        sizes.append(journal.stat().st_size if journal.exists() else 0)
        return shoal.start("run", "in.jsonl", "-o", "out.jsonl", *options)

    kills, rng = 0, random.Random(7)
    while kills < KILLS:  # a run that ends before its kill is checked, and the job done again
        for path in (output, errors, journal):
            path.unlink(missing_ok=True)
        report = run_with_kills(
            start,
            kills=KILLS - kills,
            longest_seconds=calm_seconds / 3,
            rng=rng,
            ready=journal.exists,
        )
        kills += report.kills
        assert report.exit_code == 3
        assert report.kills > 0
        assert answers(shoal.read("out.jsonl")) == answers(shoal.read("calm.jsonl"))
        assert answers(shoal.read("out.errors.jsonl")) == answers(shoal.read("calm.errors.jsonl"))
    assert len(set(sizes)) > 3, "the runs that were killed did not bring the job forward"
