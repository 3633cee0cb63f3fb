from __future__ import annotations

import time
from pathlib import Path

import pytest

import shoal
from shoal.config import EngineOptions
from shoal.errors import (
    InternalError,
    JobChangedError,
    JobError,
    OptionError,
    OutputExistsError,
    OutputLockedError,
)
from shoal.jobs import JobSpec
from tests.helpers.job_files import ForkedProcess, chat, read_records
from tests.helpers.job_process import FINISHED, MIXED, MIXED_ERRORS, CrashError, Job, stop_after


def test_every_line_has_one_record_in_input_order(job: Job) -> None:
    result = job.write(MIXED).run()
    assert result.exit_code == 3
    assert not result.already_finished
    assert (result.output, result.errors) == (job.output, job.errors)
    assert job.files() == FINISHED
    failures = {r["response"]["body"]["error"]["line"] - 1: r for r in read_records(job.errors)}
    assert {line: r["custom_id"] for line, r in failures.items()} == MIXED_ERRORS
    assert list(failures) == sorted(failures)
    assert failures[3]["response"]["status_code"] == 500
    good = [line for i, line in enumerate(MIXED) if i not in MIXED_ERRORS]
    records = read_records(job.output)
    assert [r["custom_id"] for r in records] == [line["custom_id"] for line in good]
    assert [c["index"] for c in records[1]["response"]["body"]["choices"]] == [0, 1, 2, 3]
    assert len({r["id"] for r in records + list(failures.values())}) == len(MIXED)


def test_summary(job: Job) -> None:
    lines = [chat(str(i), "shared text " * 8 + str(i), n=1 + i % 2) for i in range(10)]
    summary = job.write([*lines, b"?"]).run().summary
    assert (summary.requests.total, summary.requests.succeeded, summary.requests.failed) == (
        11, 10, 1,
    )  # fmt: skip
    tokens = summary.tokens
    generated = sum(
        r["response"]["body"]["usage"]["completion_tokens"] for r in read_records(job.output)
    )
    assert tokens.generated == generated > 0
    assert tokens.prompt == tokens.prompt_computed + tokens.prompt_saved
    assert tokens.prompt_saved > tokens.prompt // 2
    assert summary.iterations == 3
    seconds = summary.seconds
    assert 0 < seconds.run < seconds.total
    assert seconds.plan > 0
    assert summary.throughput == pytest.approx(generated / seconds.run)


def test_all_good_makes_no_errors_file(job: Job) -> None:
    result = job.write([chat("a")]).run()
    assert (result.exit_code, result.errors) == (0, None)
    assert job.files() == FINISHED - {"out.errors.jsonl"}


def test_all_bad_makes_an_empty_output_and_no_engine(job: Job) -> None:
    result = job.write([b"?", b"", b"{}"]).run()
    assert result.exit_code == 3
    assert job.output.read_bytes() == b""
    assert len(read_records(job.errors)) == 2
    assert job.engines == []


def test_no_line_makes_an_empty_output(job: Job) -> None:
    assert job.write([]).run().exit_code == 0
    assert job.output.read_bytes() == b""


def test_an_engine_that_forgets_a_request_is_an_error(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.helpers import job_files as support

    real = support.FakeRun._complete
    monkeypatch.setattr(support.FakeRun, "__iter__", lambda self: iter([[real(self, 0)]]))
    with pytest.raises(InternalError, match="16 requests unfinished"):
        job.write(MIXED).run()
    assert not job.output.exists()


def test_where_memory_is_measured_the_engine_says_how_long_a_request_may_be(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on CUDA with kv_memory auto: nothing is known before the weights are loaded."""
    monkeypatch.setattr("shoal.jobs.execute.stated_blocks", lambda *_: None)
    unlimited = chat("unlimited", "x")
    del unlimited["body"]["max_tokens"]
    job.write([chat("short", "x"), chat("long", "x" * 400), unlimited])
    small = EngineOptions(dtype="float32", device="cpu", kv_memory="64KiB")
    with pytest.raises(CrashError):
        job.run(options=small, engine=stop_after(1, CrashError()))
    assert len(job.engines) == 1
    table, capacity = job.engines[0].table, job.engines[0].machine.kv_tokens
    assert len(table) == 2
    assert table.max_new_tokens.max() + table.lengths.max() - 1 == capacity
    result = job.run()
    assert result.exit_code == 0
    assert len(job.engines) == 2
    assert result.summary.seconds.load > 0


def test_where_it_is_stated_no_engine_is_made_for_nothing(job: Job) -> None:
    job.write([chat("a", temperature=9)])
    job.run()
    assert job.engines == []


def test_files_of_others_are_not_overwritten(job: Job) -> None:
    job.write([chat("a")])
    for path in (job.output, job.errors):
        path.write_text("precious")
        with pytest.raises(OutputExistsError, match=path.name):
            job.run()
        assert path.read_text() == "precious"
        assert job.files() == {"in.jsonl", path.name}
        path.unlink()
    job.output.write_text("old")
    assert job.run(restart=True).exit_code == 0


@pytest.mark.long
def test_two_runs_on_one_output(job: Job) -> None:
    job.write(MIXED)

    def slow() -> int:
        return job.run(engine={"seconds": 0.3}).exit_code

    first = ForkedProcess(slow)
    end = time.monotonic() + 30
    while not (job.journal.exists() and job.journal.stat().st_size):
        assert time.monotonic() < end
        time.sleep(0.01)
    with pytest.raises(OutputLockedError, match="another run"):
        job.run()
    with pytest.raises(OutputLockedError):
        job.run(restart=True)
    assert first.wait() == 3
    assert job.run().already_finished


def test_paths_that_cannot_work(job: Job) -> None:
    job.write([chat("a")])
    with pytest.raises(OptionError, match="different files"):
        job.run(errors=job.output)
    with pytest.raises(OptionError, match="different files"):
        job.run(errors=job.input)
    with pytest.raises(OptionError, match="no folder"):
        job.run(errors=job.folder / "absent" / "e")
    with pytest.raises(OptionError, match="it is a folder"):
        job.run(errors=job.folder)
    job.input.unlink()
    with pytest.raises(JobError, match=r"cannot read .*No such file"):
        job.run()
    assert job.files() == set()


def test_errors_file_of_choice_and_output_through_a_link(job: Job) -> None:
    job.write([chat("a"), b"?"])
    (job.folder / "real").mkdir()
    target = job.folder / "real" / "target.jsonl"
    job.output.symlink_to(target)
    result = job.run(errors=job.folder / "e.jsonl")
    assert (result.output, result.errors) == (target, job.folder / "e.jsonl")
    assert job.output.is_symlink()
    assert len(read_records(target)) == len(read_records(job.folder / "e.jsonl")) == 1


def test_an_input_that_changes_while_it_is_read_is_refused(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shoal.jobs import open_job

    real = open_job.read_job

    def append_then_read(path: Path, *rest: object, **options: object) -> object:
        with path.open("ab") as file:
            file.write(b"late\n")
        return real(path, *rest, **options)

    monkeypatch.setattr(open_job, "read_job", append_then_read)
    with pytest.raises(JobChangedError, match="while it was read"):
        job.write([chat("a")]).run()
    assert job.engines == []


@pytest.mark.parametrize(
    "given",
    [{}, {"table": "t.csv"}, {"input": "a", "table": "t", "template": "m"}, {"template": "m"}],
)
def test_a_job_has_an_input_or_a_table_with_its_template(given: dict) -> None:
    with pytest.raises(OptionError, match="either INPUT"):
        JobSpec(output="out.jsonl", **given)


def test_the_public_names_are_there() -> None:
    spec = shoal.JobSpec(input="in.jsonl", output="out.jsonl")
    assert spec.output == Path("out.jsonl")
    assert shoal.run_job is shoal.jobs.run_job
    assert all(hasattr(shoal, name) for name in shoal.__all__)
