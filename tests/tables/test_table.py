from __future__ import annotations

import csv
import datetime
import json
import os
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from shoal.errors import (
    Interrupted,
    JobChangedError,
    JobError,
    OptionError,
    OutputExistsError,
    OutputLockedError,
)
from shoal.jobs import JobResult, JobSpec, run_job
from shoal.tables.table import TableFile
from shoal.tables.table_requests import TableRequests
from shoal.tables.template import read_template
from tests.helpers.job_files import FakeEngine, ForkedProcess, read_records
from tests.helpers.job_process import Job, stop_after

TEMPLATE = """
model = "toy"
id = "key"
system = "Be brief."
prompt = "{{ fields }}End {{ after }}"
[body]
max_tokens = 4
[fields]
reorder = true
"""
ROWS = [
    {"key": f"k{i}", "note": f"note {i}", "colour": "long blue " * 4, "after": str(i % 3)}
    for i in range(12)
]


def write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_template(folder: Path, text: str = TEMPLATE) -> Path:
    path = folder / "t.toml"
    path.write_text(text)
    return path


def texts(path: Path, *names: str, null: str = "") -> list[tuple[str, ...]]:
    rows, columns = TableFile(path).read(list(names), null)
    chosen = [columns[name] for name in names]
    return [tuple(c.values[c.codes[i]] for c in chosen) for i in range(rows)]


def test_parquet_values_read_as_text(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    columns: dict[str, Any] = {
        "int": pa.array([1, None, -3]),
        "float": pa.array([1.5, 2.0, None]),
        "bool": pa.array([True, False, None]),
        "date": pa.array([datetime.date(2024, 2, 29)] * 3),
        "decimal": pa.array([Decimal("1.50")] * 3),
        "text": pa.array(["a", None, "ä\nb"]),
        "category": pa.array(["x", "y", "x"]).dictionary_encode(),
        "nothing": pa.nulls(3),
    }
    parquet.write_table(pa.table(columns), path)
    assert texts(path, *columns, null="?") == [
        ("1", "1.5", "true", "2024-02-29", "1.50", "a", "x", "?"),
        ("?", texts(path, "float")[1][0], "false", "2024-02-29", "1.50", "?", "y", "?"),
        ("-3", "?", "?", "2024-02-29", "1.50", "ä\nb", "x", "?"),
    ]


def test_csv_values_stay_as_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('a,b\n007,"two\nlines, ""quoted"""\n,NA\n1.50,true\n')
    assert texts(path, "a", "b") == [("007", 'two\nlines, "quoted"'), ("", "NA"), ("1.50", "true")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"a,b\n1,2\n3\n", "Row #3"),
        ("t.csv", b"", "Empty CSV"),
        ("t.csv", b"a\n\xff\n", "UTF8"),
        ("t.csv", b"a,a\n1,2\n", "two columns are named 'a'"),
        ("t.parquet", b"PAR1 nonsense", "cannot read the table"),
    ],
)
def test_damaged_tables(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(JobError) as caught:
        TableFile(tmp_path / name).read(["a"], "")
    assert message in str(caught.value)
    assert name in str(caught.value)


def test_tables_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"\.parquet or"):
        TableFile(tmp_path / "t.xlsx")
    with pytest.raises(JobError, match="No such file"):
        TableFile(tmp_path / "absent.csv")
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"a": [[1]], "b": [b"x"]}), path)
    for name in ("a", "b"):
        with pytest.raises(JobError, match=f"'{name}' is .* no text form"):
            TableFile(path).read([name], "")


def requests(folder: Path, rows: list[dict[str, str]], template: str = TEMPLATE) -> list[Any]:
    table = write_csv(folder / "t.csv", rows)
    rendered = TableRequests(table, read_template(write_template(folder, template)))
    return [json.loads(line) for line in rendered.lines()]


def test_lines_are_ordinary_requests_in_row_order(tmp_path: Path) -> None:
    lines = requests(tmp_path, ROWS)
    assert [line["custom_id"] for line in lines] == [row["key"] for row in ROWS]
    assert lines[4] == {
        "custom_id": "k4",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {
            "model": "toy",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {
                    "role": "user",
                    "content": f"colour: {'long blue ' * 4}\nnote: note 4\nEnd 1",
                },
            ],
            "max_tokens": 4,
        },
    }


def test_rows_that_differ_before_the_fields_share_nothing_there(tmp_path: Path) -> None:
    """Each long text comes once under each system prompt; what repeats under one is the colour."""
    rows = [
        {
            "key": f"k{i}",
            "text": f"{i % 8} long" * 9,
            "colour": f"red{(i + i // 8) % 2}",
            "after": str(i // 8),
        }
        for i in range(16)
    ]
    for system, first in (("Be brief.", "text: "), ("{{ after }}", "colour: red")):
        lines = requests(tmp_path, rows, TEMPLATE.replace("Be brief.", system))
        assert all(x["body"]["messages"][1]["content"].startswith(first) for x in lines)


def test_completions_without_fields_and_without_ids(tmp_path: Path) -> None:
    template = 'model = "toy"\nurl = "/v1/completions"\nprompt = "{{ note }}, {{ colour }}"'
    lines = requests(tmp_path, ROWS[:2], template)
    assert [line["custom_id"] for line in lines] == ["row-1", "row-2"]
    assert lines[1]["body"] == {"model": "toy", "prompt": f"note 1, {'long blue ' * 4}"}


def test_fields_that_may_not_be_reordered_are_not(tmp_path: Path) -> None:
    lines = requests(tmp_path, ROWS, TEMPLATE.replace("true", "false"))
    assert lines[0]["body"]["messages"][1]["content"].startswith("note: note 0\ncolour: long")


words = st.text("ab ,\"\n'ü{}", max_size=4)


@settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(words, words, words), min_size=1, max_size=12))
def test_each_prompt_holds_each_field_once(tmp_path: Path, rows: list[tuple[str, ...]]) -> None:
    named = [dict(zip(("p", "q", "r"), row, strict=True)) for row in rows]
    template = """
model = "toy"
prompt = "{{ r }}|{{ fields }}|{{ p }}"
[fields]
include = ["p", "q", "r"]
format = "<{{ name }}={{ value }}>"
reorder = true
"""
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.Table.from_pylist(named), path)
    rendered = TableRequests(path, read_template(write_template(tmp_path, template)))
    lines = [json.loads(line) for line in rendered.lines()]
    assert len(lines) == rendered.rows == len(rows)
    for line, row in zip(lines, named, strict=True):
        content = line["body"]["messages"][0]["content"]
        inner = content[len(row["r"]) + 1 : len(content) - len(row["p"]) - 1]
        pieces = [f"<{name}={value}>" for name, value in row.items()]
        assert content == f"{row['r']}|{inner}|{row['p']}"
        assert len(inner) == sum(map(len, pieces))
        assert all(piece in inner for piece in pieces)
    assert list(rendered.lines()) == list(rendered.lines())


def run(job: Job, engine: dict[str, Any] | None = None, **arguments: Any) -> JobResult:
    def make(*description_and_options: Any) -> FakeEngine:
        return FakeEngine(*description_and_options, **(engine or {}))

    folder = job.folder
    files = {"table": folder / "t.csv", "template": folder / "t.toml", "output": job.output}
    defaults = {"model": str(job.model), "quiet": True}
    return run_job(JobSpec(**files | defaults | arguments), engine=make)


@pytest.fixture
def table_job(job: Job) -> Job:
    write_csv(job.folder / "t.csv", ROWS)
    write_template(job.folder)
    return job


def test_a_table_job_gives_one_record_per_row_and_resumes(table_job: Job) -> None:
    with pytest.raises(Interrupted):
        run(table_job, stop_after(2, Interrupted("stop")))
    first = (table_job.folder / "out.jsonl.requests.jsonl").read_bytes()
    assert not table_job.output.exists()
    assert run(table_job).exit_code == 0
    assert [r["custom_id"] for r in read_records(table_job.output)] == [r["key"] for r in ROWS]
    assert run(table_job).already_finished
    assert (table_job.folder / "out.jsonl.requests.jsonl").read_bytes() == first


def test_bad_rows_fail_alone(table_job: Job) -> None:
    rows = [*ROWS[:3], ROWS[1], {**ROWS[3], "key": ""}]
    write_csv(table_job.folder / "t.csv", rows)
    assert run(table_job).exit_code == 3
    assert [r["custom_id"] for r in read_records(table_job.output)] == ["k0", "k1", "k2"]
    codes = [r["response"]["body"]["error"]["code"] for r in read_records(table_job.errors)]
    assert codes == ["duplicate_custom_id", "invalid_value"]


@pytest.mark.parametrize("changed", ["t.csv", "t.toml"])
def test_a_changed_table_or_template_is_refused(table_job: Job, changed: str) -> None:
    with pytest.raises(Interrupted):
        run(table_job, stop_after(2, Interrupted("stop")))
    path = table_job.folder / changed
    before = path.read_bytes()
    path.write_bytes(before.replace(b"note 7", b"note X").replace(b"brief", b"terse"))
    with pytest.raises(JobChangedError, match=r"rendered from .*t\.csv and .*t\.toml"):
        run(table_job)
    path.write_bytes(before)
    assert run(table_job).exit_code == 0
    path.write_bytes(before.replace(b"note 7", b"note X").replace(b"brief", b"terse"))
    with pytest.raises(JobChangedError):
        run(table_job)
    assert run(table_job, restart=True).exit_code == 0


def test_a_file_that_is_not_ours_stays(table_job: Job) -> None:
    path = table_job.folder / "out.jsonl.requests.jsonl"
    path.write_text("mine")
    with pytest.raises(OutputExistsError, match="Move it away"):
        run(table_job)
    assert path.read_text() == "mine"
    assert not (table_job.folder / ".out.jsonl.requests.jsonl.shoal-tmp").exists()
    assert run(table_job, restart=True).exit_code == 0


def test_the_table_is_never_written_to(table_job: Job) -> None:
    table = table_job.folder / "t.csv"
    with pytest.raises(OptionError, match="must be different files"):
        run(table_job, errors=table)
    assert table.read_text().startswith("key,")


def test_requests_that_were_changed_are_not_replaced(table_job: Job) -> None:
    """A journal alone does not make the file ours: an earlier job may have had another input."""
    requests = table_job.folder / "out.jsonl.requests.jsonl"
    with pytest.raises(Interrupted):
        run(table_job, stop_after(2, Interrupted("stop")))
    requests.write_text("mine")
    with pytest.raises(OutputExistsError, match=r"rendered from .*t\.csv"):
        run(table_job)
    assert requests.read_text() == "mine"
    requests.unlink()
    assert run(table_job).exit_code == 0


def test_requests_are_written_only_by_the_owner_of_the_output(table_job: Job) -> None:
    def slow() -> int:
        return run(table_job, {"seconds": 0.3}).exit_code

    requests = table_job.folder / "out.jsonl.requests.jsonl"
    first = ForkedProcess(slow)
    deadline = time.monotonic() + 30
    while not requests.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    before = requests.stat()
    with pytest.raises(OutputLockedError):
        run(table_job)
    assert os.path.samestat(before, requests.stat())
    assert first.wait() == 0


def test_an_empty_table(table_job: Job) -> None:
    (table_job.folder / "t.csv").write_text("key,note,colour,after\n")
    assert run(table_job).exit_code == 0
    assert table_job.output.read_bytes() == b""


def test_an_answer_may_have_begun(tmp_path: Path) -> None:
    begun = 'model = "toy"\nsystem = "S"\nprompt = "{{ note }}"\nanswer = "{{ colour }}: "'
    first, *_ = requests(tmp_path, ROWS, begun + "\n[body]\nmax_tokens = 3")
    assert first["body"] == {
        "model": "toy",
        "messages": [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "note 0"},
            {"role": "assistant", "content": f"{'long blue ' * 4}: "},
        ],
        "add_generation_prompt": False,
        "continue_final_message": True,
        "max_tokens": 3,
    }


def test_rows_for_responses(tmp_path: Path) -> None:
    text = 'model = "toy"\nurl = "/v1/responses"\nprompt = "{{ note }}"'
    first, *_ = requests(tmp_path, ROWS, text)
    assert first["url"] == "/v1/responses"
    assert first["body"] == {"model": "toy", "input": "note 0"}
    first, *_ = requests(tmp_path, ROWS, text + '\nsystem = "S {{ colour }}"')
    assert first["body"] == {
        "model": "toy",
        "input": "note 0",
        "instructions": f"S {'long blue ' * 4}",
    }
