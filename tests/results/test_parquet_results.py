"""Results as a table: what JSON lines say, in typed columns, and as safe."""

from __future__ import annotations

import gc
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from shoal.disk import NewFile
from shoal.errors import (
    JobChangedError,
    JobError,
    OptionError,
    OutputExistsError,
    OutputWriteError,
)
from shoal.requests import read_job
from shoal.results import parquet_results
from shoal.results.earlier_results import generated_lengths
from shoal.results.survey import Survey
from tests.helpers.job_files import ForkedProcess, chat, completion, read_records
from tests.helpers.job_process import MIXED, MIXED_ERRORS, CrashError, Job, stop_after
from tests.jobs.test_kill import kill_at_write

TEMPLATE = """
model = "toy"
prompt = "{{ text }}"
url = "/v1/completions"
[body]
max_tokens = 8
"""


def run(job: Job, **arguments: Any) -> pa.Table:
    """The results of a job as a table; errors beside it."""
    files = {"output": job.folder / "out.parquet", "errors": job.errors}
    return parquet.read_table(job.run(**files | arguments).output)


def told(record: dict) -> dict[str, Any]:
    """A row of a job whose lines ask for several answers and logprobs, from its record."""
    body = record["response"]["body"]
    choices = body["choices"]
    chat_shape = body["object"] == "chat.completion"
    row: dict[str, Any] = {
        "custom_id": record["custom_id"],
        "text": [c["message"]["content"] if chat_shape else c["text"] for c in choices],
        "finish_reason": [c["finish_reason"] for c in choices],
        "prompt_tokens": body["usage"]["prompt_tokens"],
        "completion_tokens": body["usage"]["completion_tokens"],
    }
    tokens, values, top = [], [], []
    for choice in choices:
        logprobs = choice["logprobs"]
        if logprobs is None:
            for column in (tokens, values, top):
                column.append(None)
        elif chat_shape:
            tokens.append([entry["token"] for entry in logprobs["content"]])
            values.append([entry["logprob"] for entry in logprobs["content"]])
            listed = [entry["top_logprobs"] for entry in logprobs["content"]]
            top.append([[(t["token"], t["logprob"]) for t in entry] for entry in listed])
        else:
            tokens.append(logprobs["tokens"])
            values.append(logprobs["token_logprobs"])
            top.append([list(entry.items()) for entry in logprobs["top_logprobs"]])
    row["tokens"], row["token_logprobs"] = tokens, values
    row["cumulative_logprob"] = [None if v is None else sum(v) for v in values]
    row["top_logprobs"] = top
    return row


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row as read, the likeliest tokens as pairs."""
    top = [
        one and [[(t["token"], t["logprob"]) for t in entry] for entry in one]
        for one in row["top_logprobs"]
    ]
    return row | {"top_logprobs": top}


def test_a_table_says_what_json_lines_say(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_results, "GROUP_ROWS", 3)
    lines = [*MIXED, chat("logs", "speak", logprobs=True, top_logprobs=2), b""]
    job.write(lines).run()
    expected = read_records(job.output)
    job.errors.unlink()
    found = run(job)
    assert [shown(row) for row in found.to_pylist()] == [told(record) for record in expected]
    assert len(found) == len(lines) - len(MIXED_ERRORS) - 1
    assert parquet.ParquetFile(job.folder / "out.parquet").metadata.num_row_groups > 3
    assert [r["custom_id"] for r in read_records(job.errors)] == list(MIXED_ERRORS.values())
    assert found.column_names == [
        "custom_id", "text", "finish_reason", "cumulative_logprob", "tokens", "token_logprobs",
        "top_logprobs", "prompt_tokens", "completion_tokens",
    ]  # fmt: skip


def test_columns_that_nobody_asked_for_are_not_there(job: Job) -> None:
    found = run(job.write([chat("a"), completion("b", logprobs=None)]))
    assert found.column_names == [
        "custom_id", "text", "finish_reason", "prompt_tokens", "completion_tokens",
    ]  # fmt: skip
    assert [str(kind) for kind in found.schema.types] == ["string"] * 3 + ["int64"] * 2
    assert "top_logprobs" not in run(job.write([completion("b", logprobs=0)]), restart=True).schema


def test_no_success_is_an_empty_table(job: Job) -> None:
    found = run(job.write([b"?"]))
    assert len(found) == 0
    assert found.column_names[:2] == ["custom_id", "text"]


def test_the_lengths_of_a_table_of_results_are_known(job: Job, description: Any) -> None:
    """`shoal plan --results` takes both formats; a table has a column custom_id of its own."""
    job.write([completion(f"row-{i + 1}", ["x", f"y{i}"], n=2) for i in range(9)])
    job.run()
    rows = [f"row-{9 - i}" for i in range(9)]
    run(job)
    table = write_table(job, custom_id=rows, text=["x"] * 9, completion_tokens=["?"] * 9)
    run(job, **table, output=job.folder / "more.parquet")
    lengths = []
    for name in ("out.jsonl", "out.parquet", "more.parquet"):
        read = read_job(job.input, description, capacity_tokens=999, names=(), reject=print)
        lengths.append(generated_lengths(job.folder / name, read.index, read.table).tolist())
        read.index.close()
    assert lengths[0] == lengths[1]
    assert len(lengths[0]) == 18
    assert set(lengths[2]) == set(
        parquet.read_table(job.folder / "more.parquet")["answer_completion_tokens"].to_pylist()
    )
    parquet.write_table(pa.table({"a": [1]}), job.folder / "other.parquet")
    with pytest.raises(JobError, match="is no result"):
        generated_lengths(job.folder / "other.parquet", read.index, read.table)


def write_table(job: Job, **columns: list) -> dict[str, Any]:
    """A table and its template; the arguments of the job."""
    parquet.write_table(pa.table(columns), job.folder / "t.parquet")
    (job.folder / "t.toml").write_text(TEMPLATE)
    return {"input": None, "table": job.folder / "t.parquet", "template": job.folder / "t.toml"}


def test_a_tables_columns_come_first_in_their_own_types(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_results, "GROUP_ROWS", 4)
    monkeypatch.setattr("shoal.tables.table._ROWS_AT_A_TIME", 3)
    texts = ["FAIL" if i in (0, 4, 5, 9) else f"text {i}" for i in range(20)]
    columns = {
        "text": texts,
        "when": pa.array(range(20), pa.timestamp("s")),
        "nested": [{"a": [i]} for i in range(20)],
        "code": pa.array([f"c{i % 3}" for i in range(20)]).dictionary_encode(),
    }
    found = run(job, **write_table(job, **columns))
    kept = [i for i in range(20) if texts[i] != "FAIL"]
    given = parquet.read_table(job.folder / "t.parquet").take(kept)
    assert found.column_names[:5] == [*columns, "custom_id"]
    assert found.select([*columns]).unify_dictionaries().equals(given)
    assert found["custom_id"].to_pylist() == [f"row-{i + 1}" for i in kept]
    records = read_records(job.folder / "out.parquet.requests.jsonl")
    assert [r["body"]["prompt"] for r in records] == texts
    assert len(read_records(job.errors)) == 4


def test_a_table_that_changes_meanwhile(job: Job) -> None:
    arguments = write_table(job, text=["a", "b", "c"], more=[1, 2, 3])

    def change(number: int) -> None:
        write_table(job, text=["a", "b", "c"], more=[3, 2, 1])

    with pytest.raises(JobChangedError, match=r"t\.parquet changed while the job ran"):
        run(job, **arguments, engine={"on_iteration": change})
    assert run(job, **arguments)["more"].to_pylist() == [3, 2, 1]
    assert len(job.engines) == 1


def test_a_job_resumes(job: Job) -> None:
    lines = [*MIXED, chat("logs", logprobs=True)]
    whole = run(job.write(lines))
    for path in ("out.parquet", "out.errors.jsonl", "out.parquet.journal"):
        (job.folder / path).unlink()
    with pytest.raises(CrashError):
        run(job, engine=stop_after(8, CrashError()) | {"seconds": 0.1})
    assert not (job.folder / "out.parquet").exists()
    assert run(job).equals(whole)
    assert len(job.engines[-1].table) < len(job.engines[0].table)
    assert run(job).equals(whole)
    (job.folder / "out.parquet").write_bytes(b"PAR1 of another")
    (job.folder / "out.parquet.journal").unlink()
    with pytest.raises(OutputExistsError, match=r"out\.parquet"):
        run(job)


@pytest.mark.long
@pytest.mark.parametrize("torn", [False, True])
def test_a_kill_at_each_write(job: Job, torn: bool) -> None:
    expected = run(job.write(MIXED))
    output, journal = job.folder / "out.parquet", job.folder / "out.parquet.journal"
    for number in range(1, 100):
        for path in (output, job.errors, journal):
            path.unlink(missing_ok=True)

        def killed(number: int = number) -> int:
            kill_at_write(number, torn)
            run(job)
            return 3

        code = ForkedProcess(killed).wait()
        assert code in (3, -signal.SIGKILL)
        if code == 3:
            break
        assert not output.exists() or parquet.read_table(output).equals(expected)
        assert run(job).equals(expected)
        assert not [path for path in job.folder.iterdir() if path.name.startswith(".")]
    assert number > 10


@pytest.mark.long
@pytest.mark.parametrize("room", [0, 100, 10_000])
def test_a_full_disk(job: Job, room: int, capfd: pytest.CaptureFixture[str]) -> None:
    """The disk takes nothing of the table, less than a row group, or several."""
    job.write([chat(str(i), f"text {i}", n=30, logprobs=True) for i in range(40)])

    def on_a_full_disk() -> int:
        parquet_results.GROUP_ROWS = 8
        begin = parquet_results.ParquetResults.__init__

        def begin_on_it(*arguments: Any) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
            begin(*arguments)

        parquet_results.ParquetResults.__init__ = begin_on_it
        code = 0
        try:
            run(job)
        except OutputWriteError as error:
            code = 7 if "resume" in str(error) else 8
        gc.collect()
        return code

    assert ForkedProcess(on_a_full_disk).wait() == 7
    assert capfd.readouterr().err == ""
    assert job.files() == {"in.jsonl", "out.parquet.journal"}
    whole = run(job)
    assert len(whole) == 40
    assert (job.folder / "out.parquet").stat().st_size > 10_000
    assert len(job.engines) == 0, "all had their results"


@pytest.mark.long
def test_a_table_that_is_given_up_writes_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ignored: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    with NewFile(tmp_path / "a.parquet", b"PAR1") as file:
        held = parquet_results.ParquetResults(file, Survey())
    del held
    gc.collect()
    assert ignored == []
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["out.csv", "out.tsv", "out.XLSX"])
def test_names_that_would_lie(job: Job, name: str) -> None:
    with pytest.raises(OptionError, match="JSON lines, or Parquet"):
        job.write([chat("a")]).run(output=job.folder / name)
    assert job.files() == {"in.jsonl"}


def test_without_pyarrow_nothing_runs(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(OptionError, match=r"pip install 'shoal\[arrow\]', or name the output"):
        job.write([chat("a")]).run(output=job.folder / "out.parquet")
    assert job.files() == {"in.jsonl"}
