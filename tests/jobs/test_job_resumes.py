"""A job that was stopped goes on where it was; what changes results may not change."""

from __future__ import annotations

import os
import resource
import shutil
import signal
from pathlib import Path

import pytest

from shoal.config import EngineOptions
from shoal.errors import (
    Interrupted,
    JobChangedError,
    OutputWriteError,
)
from tests.helpers.job_files import ForkedProcess, chat, make_model, read_records
from tests.helpers.job_process import FINISHED, MIXED, CrashError, Job, stop_after


def test_again_there_is_nothing_to_do(job: Job) -> None:
    first = job.write(MIXED).run()
    before = {name: (job.folder / name).read_bytes() for name in FINISHED}
    again = job.run()
    assert again.already_finished
    assert again.exit_code == first.exit_code
    assert again.summary.requests == first.summary.requests
    assert len(job.engines) == 1
    assert {name: (job.folder / name).read_bytes() for name in FINISHED} == before


def test_a_finished_output_that_is_gone_is_made_again(job: Job) -> None:
    job.write(MIXED).run()
    expected = job.answers()
    job.output.unlink()
    assert not job.run().already_finished
    assert job.answers() == expected


@pytest.mark.long
@pytest.mark.parametrize("iterations", [1, 4, 7])
def test_an_interrupted_job_resumes_where_it_was(job: Job, iterations: int) -> None:
    job.write(MIXED).run()
    expected = job.answers()
    shutil.rmtree(job.folder)
    job.folder.mkdir()
    job.write(MIXED)
    with pytest.raises(Interrupted, match="to resume"):
        job.run(engine=stop_by_signal(iterations, signal.SIGTERM))
    assert job.files() == {"in.jsonl", "out.jsonl.journal"}
    result = job.run(engine={"width": 1})
    assert job.answers() == expected
    assert result.summary.requests.total == len(MIXED)
    assert result.summary.iterations == 17 - 2 * iterations  # 17 requests, 2 per iteration then


def stop_by_signal(iterations: int, number: signal.Signals) -> dict:
    def stop(iteration: int) -> None:
        if iteration == iterations - 1:  # what comes while an iteration runs stops after it
            os.kill(os.getpid(), number)

    if iterations == 1:
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), number))
        return {"width": 2, "alarm_seconds": 0.4, "seconds": 1.2}
    return {"width": 2, "on_iteration": stop}


def test_a_second_signal_stops_at_once_and_handlers_are_restored(job: Job) -> None:
    before = signal.getsignal(signal.SIGINT)
    progress: list[int] = []

    def interrupt_twice(iteration: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        progress.append(1)
        os.kill(os.getpid(), signal.SIGINT)
        progress.append(2)

    with pytest.raises(Interrupted):
        job.write(MIXED).run(engine={"on_iteration": interrupt_twice})
    assert progress == [1]
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interruption_is_no_exception_that_a_model_error_handler_takes() -> None:
    assert issubclass(Interrupted, KeyboardInterrupt)
    assert not issubclass(Interrupted, Exception)


def test_a_crash_of_the_engine_leaves_a_job_that_resumes(job: Job) -> None:
    job.write(MIXED)
    with pytest.raises(CrashError):
        job.run(engine=stop_after(3, CrashError()))
    assert job.run().summary.requests.total == len(MIXED)


def test_requests_without_seed_keep_the_jobs_seed(job: Job) -> None:
    job.write(MIXED)
    with pytest.raises(CrashError):
        job.run(engine=stop_after(3, CrashError()))
    job.run()
    job.run(restart=True)
    begun, resumed, another = (engine.table.job_seed for engine in job.engines)
    assert begun == resumed != another


def changed(job: Job, says: str, **arguments: object) -> None:
    before = {path: path.read_bytes() for path in job.folder.iterdir() if path.is_file()}
    with pytest.raises(JobChangedError, match=says) as caught:
        job.run(**arguments)
    assert "--restart" in str(caught.value)
    after = {path: path.read_bytes() for path in job.folder.iterdir() if path.is_file()}
    assert before == after


@pytest.mark.parametrize("finished", [True, False])
def test_what_changes_results_may_not_change(job: Job, finished: bool, tmp_path: Path) -> None:
    job.write(MIXED)
    if finished:
        job.run()
    else:
        with pytest.raises(CrashError):
            job.run(engine=stop_after(3, CrashError()))
    bfloat16 = EngineOptions(dtype="bfloat16", device="cpu", kv_memory="1MiB")
    changed(job, "dtype was 'float32' and is 'bfloat16'", options=bfloat16)
    shorter = EngineOptions(dtype="float32", device="cpu", kv_memory="1MiB", max_model_len=50)
    changed(job, "max_model_len was 512 and is 50", options=shorter)
    changed(job, r"served_model_name was \[\] and is \['x'\]", served_names=["x"])
    other = make_model(tmp_path / "other", rope_theta=5.0)
    changed(job, "the model's config.json changed", model=str(other))
    original = job.input.read_bytes()
    job.input.write_bytes(original.replace(b"one", b"two"))
    changed(job, "the input file changed")
    job.input.write_bytes(original)
    options = EngineOptions(dtype="float32", device="cpu", kv_memory="2MiB", token_budget=7)
    assert job.run(options=options).summary.requests.total == len(MIXED)


def test_a_larger_pool_may_accept_what_was_refused(job: Job) -> None:
    job.write([chat("short", "x"), chat("long", "x" * 400), *[chat(str(i)) for i in range(6)]])
    small = EngineOptions(dtype="float32", device="cpu", kv_memory="64KiB")
    with pytest.raises(CrashError):
        job.run(options=small, engine=stop_after(2, CrashError()))
    result = job.run()
    assert result.exit_code == 0
    assert [r["custom_id"] for r in read_records(job.output)][:2] == ["short", "long"]


def test_restart(job: Job) -> None:
    job.write(MIXED).run()
    job.write([chat("new")])
    stale = job.output.read_bytes()
    with pytest.raises(CrashError):
        job.run(restart=True, engine=stop_after(1, CrashError()))
    assert job.output.read_bytes() == stale
    assert job.run().exit_code == 0
    assert [r["custom_id"] for r in read_records(job.output)] == ["new"]
    assert not job.errors.exists()


def test_a_full_disk_stops_the_job_and_it_resumes(job: Job) -> None:
    job.write([chat(str(i), f"text {i}") for i in range(60)]).run()
    expected = job.answers()
    size = job.output.stat().st_size
    for path in (job.output, job.journal):
        path.unlink()

    def on_a_full_disk() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))
        try:
            job.run()
        except OutputWriteError as error:
            return 7 if "resume" in str(error) else 8
        return 0

    assert ForkedProcess(on_a_full_disk).wait() == 7
    assert job.run().exit_code == 0
    assert job.answers() == expected


def test_a_disk_too_full_for_the_output_keeps_the_journal(job: Job) -> None:
    job.write([chat(str(i), f"text {i}") for i in range(60)])

    def fill_up_at_the_end(iteration: int) -> None:
        if iteration == 15:
            resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))

    def on_a_full_disk() -> int:
        try:
            job.run(engine={"on_iteration": fill_up_at_the_end})
        except OutputWriteError:
            return 7
        return 0

    assert ForkedProcess(on_a_full_disk).wait() == 7
    assert job.files() == {"in.jsonl", "out.jsonl.journal"}
    assert job.run().exit_code == 0
    assert len(read_records(job.output)) == 60
