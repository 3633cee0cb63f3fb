"""Inputs as people have them: compressed, piped, with blank lines, or not a batch file at all."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from shoal.errors import JobChangedError, JobError
from shoal.jobs import readable_source
from tests.helpers.job_files import ForkedProcess, answers, chat, read_records
from tests.helpers.job_process import FINISHED, MIXED, CrashError, Job, stop_after

REQUESTS = "out.jsonl.requests.jsonl"


def zstd(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


def expected(job: Job) -> list[dict]:
    job.write(MIXED).run()
    found = job.answers()
    for path in (job.output, job.errors, job.journal):
        path.unlink()
    return found


@pytest.mark.parametrize("compress", [gzip.compress, zstd])
def test_compressed_input(job: Job, compress: Callable[[bytes], bytes]) -> None:
    records = expected(job)
    data = job.input.read_bytes()
    half = data.index(b"\n", len(data) // 2) + 1
    job.input.write_bytes(compress(data[:half]) + compress(data[half:]))
    with pytest.raises(CrashError):
        job.run(engine=stop_after(3, CrashError()))
    assert (job.folder / REQUESTS).read_bytes() == data
    assert job.run().exit_code == 3
    assert job.answers() == records
    assert job.files() == FINISHED
    assert job.run().already_finished
    assert job.files() == FINISHED
    job.input.write_bytes(compress(data.replace(b"one", b"two")))
    with pytest.raises(JobChangedError, match=r"read from .*in\.jsonl"):
        job.run()


@pytest.mark.parametrize("compress", [gzip.compress, zstd])
@pytest.mark.parametrize("cut", [0.2, 0.9])
def test_compressed_input_that_is_cut(
    job: Job, compress: Callable[[bytes], bytes], cut: float
) -> None:
    data = compress(job.write(MIXED).input.read_bytes())
    job.input.write_bytes(data[: int(len(data) * cut)])
    with pytest.raises(JobError, match="copied or downloaded whole"):
        job.run()
    assert job.files() == {"in.jsonl"}


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_pipes_and_standard_input(job: Job, compress: Callable[[bytes], bytes]) -> None:
    records = expected(job)
    data = job.input.read_bytes()
    fifo = job.folder / "fifo"
    os.mkfifo(fifo)

    def run(**arguments: Any) -> Any:
        def fill() -> None:
            with fifo.open("wb") as pipe:
                pipe.write(compress(data))

        writer = threading.Thread(target=fill)
        writer.start()
        try:
            return job.run(input=fifo, **arguments)
        finally:
            writer.join()

    with pytest.raises(CrashError):
        run(engine=stop_after(3, CrashError()))
    assert run().exit_code == 3
    assert job.answers() == records
    assert run().already_finished

    def from_standard_input() -> int:
        with job.input.open("rb") as file:
            os.dup2(file.fileno(), 0)
        sys.stdin = os.fdopen(0)
        return 0 if job.run(input="-").already_finished else 1

    assert ForkedProcess(from_standard_input).wait() == 0


def test_a_job_from_a_pipe_that_is_gone_goes_on_from_its_requests(job: Job) -> None:
    records = expected(job)
    job.input.write_bytes(gzip.compress(job.input.read_bytes()))
    with pytest.raises(CrashError):
        job.run(engine=stop_after(3, CrashError()))
    assert job.run(input=job.folder / REQUESTS).exit_code == 3
    assert job.answers() == records
    assert (job.folder / REQUESTS).exists()


def test_blank_lines_are_no_requests(job: Job) -> None:
    lines = [b"", chat("a"), b" \t\r", b"?", b"\r", chat("b"), chat("a"), b"", b""]
    job.write(lines)
    with pytest.raises(CrashError):
        job.run(engine=stop_after(1, CrashError()) | {"width": 1})
    counts = job.run().summary.requests
    assert (counts.total, counts.succeeded, counts.failed) == (4, 2, 2)
    assert [r["custom_id"] for r in read_records(job.output)] == ["a", "b"]
    errors = [r["response"]["body"]["error"] for r in read_records(job.errors)]
    assert [error["line"] for error in errors] == [4, 7]
    assert "taken by line 2" in errors[1]["message"]


@pytest.mark.parametrize("ends", [b"\r\n", b"\n\n", b"\r\n\r\n"])
def test_line_ends_and_a_byte_order_mark(job: Job, ends: bytes) -> None:
    lines = [chat("a"), chat("b")]
    job.input.write_bytes(b"\xef\xbb\xbf" + ends.join(json.dumps(x).encode() for x in lines))
    assert job.run().exit_code == 0
    assert [r["custom_id"] for r in answers(job.output)] == ["a", "b"]


GOOD = [chat("a"), chat("b")]


def as_parquet(lines: list[dict]) -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.table({"x": [json.dumps(line) for line in lines]}), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (json.dumps(GOOD), r"a JSON array.*jq -c '\.\[\]' .*in\.jsonl > requests\.jsonl"),
        (json.dumps(GOOD, indent=2), r"a JSON array.*jq"),
        (json.dumps(GOOD[:1], indent=2), "a JSON array"),
        ("[" + ",\n".join(map(json.dumps, GOOD)) + "]", "a JSON array"),
        ("\ufeff\n" + json.dumps(GOOD), "a JSON array"),
        ("[]", "a JSON array"),
        (json.dumps(GOOD[0], indent=4), r"pretty-printed JSON.*jq -c '\.' "),
        ("\n".join(json.dumps(x, indent=1) for x in GOOD), "pretty-printed JSON"),
        ("id,text\n1,hello\n2,you\n", "CSV.*--table"),
        ("id\ttext\n1\thello\n", "CSV.*--table"),
        (json.dumps(GOOD[0]).encode("utf-16"), "UTF-16.*iconv"),
        (json.dumps(GOOD[0]).encode("utf-16-le"), "UTF-16.*iconv -f UTF-16LE"),
        (json.dumps(GOOD[0]).encode("utf-16-be"), "UTF-16.*iconv -f UTF-16BE"),
        (as_parquet(GOOD), "Parquet.*--table"),
        (b"BZh91AY&SY", "bunzip2"),
        (b"PK\x03\x04", "zip"),
    ],
)
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_other_files_are_named(
    job: Job, content: str | bytes, says: str, compress: Callable[[bytes], bytes]
) -> None:
    job.input.write_bytes(compress(content.encode() if isinstance(content, str) else content))
    with pytest.raises(JobError, match=says):
        job.run()
    assert job.files() == {"in.jsonl"}
    with pytest.raises(JobError, match=says), readable_source(job.input):
        pass


@pytest.mark.parametrize(
    "first", [b"[1, 2]", b"[{", b"{", b'{"a":', b'"x"', b"a,b", b"PAR", b"null", b"[]"]
)
def test_a_wrong_first_line_is_one_wrong_line(job: Job, first: bytes) -> None:
    job.write([first, *GOOD])
    counts = job.run().summary.requests
    assert (counts.succeeded, counts.failed) == (2, 1)


@pytest.mark.long
def test_zstd_without_pyarrow(job: Job) -> None:
    job.input.write_bytes(zstd(b"{}\n"))
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from pathlib import Path; from shoal.jobs import readable_source\n"
        f"with readable_source(Path({str(job.input)!r})): pass"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'shoal[arrow]'" in done.stderr
