"""Jobs that are asked to stop, and that end with requests that never run."""

from __future__ import annotations

from collections import Counter

import pytest

from shoal.config import EngineOptions
from shoal.errors import Interrupted
from shoal.jobs import JobResult, JobSpec, run_job
from shoal.jobs.execute import EngineFactory
from shoal.results import CANCELLED
from tests.helpers.job_files import FakeEngine, chat, read_records
from tests.helpers.job_process import MIXED, Job


def never(*arguments: object) -> FakeEngine:
    raise AssertionError("an engine was made")


def run(job: Job, engine: EngineFactory, **more: object) -> JobResult:
    spec = JobSpec(input=job.input, output=job.output, model=str(job.model), quiet=True)
    return run_job(spec, engine=engine, **more)  # type: ignore[arg-type]


def stop_after(job: Job, iterations: int) -> None:
    """Run the job up to there."""
    done = 0

    def count(number: int) -> None:
        nonlocal done
        done = number

    def engine(description: object, options: EngineOptions) -> FakeEngine:
        return FakeEngine(description, options, width=1, on_iteration=count)  # type: ignore[arg-type]

    with pytest.raises(Interrupted):
        run(job, engine, asked=lambda: done >= iterations)


def test_a_job_is_asked_to_stop_and_resumed(job: Job) -> None:
    job.write(MIXED)
    stop_after(job, 4)
    assert job.journal.read_bytes().count(b" done ") >= 4
    assert not job.output.exists()
    result = job.run()
    assert result.summary.requests.total == len(MIXED)


def test_asked_before_anything_runs(job: Job) -> None:
    job.write(MIXED)
    with pytest.raises(Interrupted):
        run(job, FakeEngine, asked=lambda: True)
    assert job.run().summary.requests.total == len(MIXED)


def test_what_was_never_run_says_so(job: Job) -> None:
    job.write(MIXED)
    stop_after(job, 4)
    result = run(job, never, unexecuted=CANCELLED)
    succeeded, failed = read_records(job.output), read_records(job.errors)
    assert len(succeeded) == result.summary.requests.succeeded >= 4
    assert len(succeeded) + len(failed) == len(MIXED)
    never_run = [record for record in failed if record["response"] is None]
    assert never_run
    for record in never_run:
        assert record["error"] == {"code": "batch_cancelled", "message": CANCELLED.message}
        assert record["custom_id"]
        assert record["id"].startswith("batch_req_")
    codes = Counter(
        record["response"]["body"]["error"]["code"] for record in failed if record["response"]
    )
    assert codes["invalid_json_line"] == codes["duplicate_custom_id"] == 1
    assert job.run().already_finished


def test_a_job_that_never_began(job: Job) -> None:
    job.write([chat(f"c{i}") for i in range(3)])
    result = run(job, never, unexecuted=CANCELLED)
    assert (result.summary.requests.succeeded, result.summary.requests.failed) == (0, 3)
    assert [record["custom_id"] for record in read_records(job.errors)] == ["c0", "c1", "c2"]
