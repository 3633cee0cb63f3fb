"""`shoal run --table --template` as a user types it, on the bundled model."""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.e2e.conftest import Command, Shoal
from tests.e2e.test_run import FLOAT32, answers
from tests.helpers.kills import run_with_kills

EXAMPLES = Path(__file__).parents[2] / "examples"
TEMPLATE = (EXAMPLES / "reviews.toml").read_text()


def rows() -> list[dict[str, str]]:
    with (EXAMPLES / "reviews.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def reviews(shoal: Shoal) -> Shoal:
    (shoal.folder / "t.csv").write_bytes((EXAMPLES / "reviews.csv").read_bytes())
    (shoal.folder / "t.toml").write_text(TEMPLATE)
    return shoal


def test_csv_and_parquet_give_the_same_records_in_row_order(reviews: Shoal) -> None:
    columns = {name: [row[name] for row in rows()] for name in rows()[0]}
    # A column of another type than the CSV's text, on purpose.
    columns["stars"] = [int(stars) for stars in columns["stars"]]  # type: ignore[misc]
    parquet.write_table(pa.table(columns), reviews.folder / "t.parquet")
    seen = []
    for suffix in ("csv", "parquet"):
        command = ("run", "--table", f"t.{suffix}", "--template", "t.toml", *FLOAT32)
        assert reviews(*command, "-o", f"{suffix}.jsonl") == 0
        said = reviews.text("stderr")
        assert "96 rows: 7" in said, said
        assert "in the template's order" in said
        records = reviews.read(f"{suffix}.jsonl")
        assert [r["custom_id"] for r in records] == [row["review_id"] for row in rows()]
        seen.append(answers(records))
    assert seen[0] == seen[1]
    requests = [(reviews.folder / f"{s}.jsonl.requests.jsonl") for s in ("csv", "parquet")]
    assert requests[0].read_bytes() == requests[1].read_bytes()


def test_plan_tells_the_order_chosen(reviews: Shoal) -> None:
    source = ("--table", "t.csv", "--template", "t.toml")
    assert reviews("plan", *source, "--json") == 0
    plan = json.loads(reviews.text("stdout"))
    order = plan["field_order"]
    assert order["names"] == ["review", "stars", "product", "description", "shop"]
    assert sum(rows for rows, _ in order["common"]) == plan["requests"] == 96
    assert order["saved"] > 3 * order["saved_before"]
    assert reviews("plan", *source) == 0
    assert "of the fields' text is shared, against" in reviews.text("stdout")
    assert reviews("run", *source, "-o", "o.jsonl", "--summary", "s.json", *FLOAT32) == 0
    saved = json.loads(reviews.text("s.json"))["tokens"]["prompt_saved"]
    assert saved == plan["tokens"]["saved"]["forest"]
    kept = TEMPLATE.replace("reorder = true", "reorder = false")
    (reviews.folder / "t.toml").write_text(kept)
    assert reviews("plan", *source, "--json") == 0
    plan_kept = json.loads(reviews.text("stdout"))
    assert 2 * plan_kept["tokens"]["saved"]["forest"] < saved


def test_random_kills_of_a_table_job(reviews: Shoal) -> None:
    template = TEMPLATE.replace("max_tokens = 4", "max_tokens = 24")
    (reviews.folder / "t.toml").write_text(template)
    table = ("run", "--table", "t.csv", "--template", "t.toml", "--quiet")
    command = (*table, *FLOAT32, "--token-budget", "64")
    began = time.monotonic()
    assert reviews(*command, "-o", "calm.jsonl") == 0
    seconds = time.monotonic() - began

    def start() -> Command:
        return reviews.start(*command, "-o", "out.jsonl")

    report = run_with_kills(start, kills=4, longest_seconds=seconds, rng=random.Random(3))
    assert report.exit_code == 0
    assert report.kills > 0
    assert answers(reviews.read("out.jsonl")) == answers(reviews.read("calm.jsonl"))
    kept = [path.name for path in reviews.folder.iterdir() if path.name.startswith("out")]
    assert sorted(kept) == ["out.jsonl", "out.jsonl.journal", "out.jsonl.requests.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--table", "t.csv"), 2, "--template"),
        (("--template", "t.toml"), 2, "--table"),
        (("in.jsonl", "--table", "t.csv", "--template", "t.toml"), 2, "either INPUT.jsonl"),
        ((), 2, "either INPUT.jsonl"),
        (("--table", "absent.csv", "--template", "t.toml"), 1, "absent.csv"),
        (("--table", "t.csv", "--template", "absent.toml"), 1, "absent.toml"),
        (("--table", "t.toml", "--template", "t.toml"), 2, ".parquet or *.csv"),
        (("--table", "t.csv", "--template", "bad.toml"), 1, "bad.toml, line 1: tone is no key"),
    ],
)
def test_wrong_commands(
    reviews: Shoal, arguments: tuple[str, ...], code: int, message: str
) -> None:
    (reviews.folder / "bad.toml").write_text('tone = "kind"\n')
    assert reviews("run", *arguments, "-o", "o.jsonl") == code
    assert message in reviews.text("stderr")
    assert "Traceback" not in reviews.text("stderr")


def test_the_example_of_an_extraction(shoal: Shoal) -> None:
    """Its prompts are those of the tickets, whose right answers are known."""
    source = ("--table", EXAMPLES / "orders.csv", "--template", EXAMPLES / "orders.toml")
    held = ("--schema", EXAMPLES / "order.json")
    assert shoal("run", *source, *held, "-o", "orders.parquet", "--quiet") == 0
    tickets = {
        line["custom_id"]: line
        for line in map(json.loads, (EXAMPLES / "tickets.jsonl").read_text().splitlines())
    }
    requests = shoal.read("orders.parquet.requests.jsonl")
    assert len(requests) == 26
    assert all(tickets[request["custom_id"]] == request for request in requests)
    command = [sys.executable, EXAMPLES / "show_table.py", "orders.parquet"]
    shown = subprocess.run(
        [*command, EXAMPLES / "answers.jsonl"], cwd=shoal.folder, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "extract-06-012 | Askport | P-17014 | Zora Melland | Lumen Lamp\n" in shown.stdout


def test_the_example_of_a_classification(shoal: Shoal) -> None:
    """Prompts are those of the tickets with the answer begun; all topics come out right."""
    source = ("--table", EXAMPLES / "topics.csv", "--template", EXAMPLES / "topics.toml")
    choices = ("--choices", EXAMPLES / "topics.txt")
    assert shoal("run", *source, *choices, "-o", "topics.parquet", "--quiet") == 0
    lines = (EXAMPLES / "tickets.jsonl").read_text().splitlines()
    tickets = {line["custom_id"]: line["body"]["messages"] for line in map(json.loads, lines)}
    requests = shoal.read("topics.parquet.requests.jsonl")
    assert len(requests) == 24
    for request in requests:
        begun = {"role": "assistant", "content": '{"tag":"'}
        assert request["body"]["messages"] == [*tickets[request["custom_id"]], begun]
    command = [sys.executable, EXAMPLES / "show_labels.py", "topics.parquet"]
    shown = subprocess.run(
        [*command, EXAMPLES / "answers.jsonl"], cwd=shoal.folder, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "\nroute-07-001 | cancel | 0.999" in shown.stdout
    assert shown.stdout.endswith("topics right in 24 of 24 tickets\n")


def test_results_as_a_table_beside_the_rows_they_are_of(reviews: Shoal) -> None:
    """On the real model, held to a schema; every answer is in columns, and the rows are kept."""
    schema = {
        "type": "object",
        "properties": {"content": {"type": "boolean"}, "stars": {"enum": [1, 2, 3]}},
        "required": ["content", "stars"],
        "x-guidance": {"whitespace_flexible": False},
        "additionalProperties": False,
    }
    (reviews.folder / "s.json").write_text(json.dumps(schema))
    template = TEMPLATE.replace("max_tokens = 4", "max_tokens = 24\nlogprobs = true")
    (reviews.folder / "t.toml").write_text(template)
    command = ("run", "--table", "t.csv", "--template", "t.toml", "--schema", "s.json", *FLOAT32)
    assert reviews(*command, "-o", "r.parquet") == 0
    assert reviews(*command, "-o", "r.jsonl") == 0
    found = parquet.read_table(reviews.folder / "r.parquet").to_pylist()
    records = reviews.read("r.jsonl")
    assert len(found) == len(records) == len(rows())
    for row, given, record in zip(found, rows(), records, strict=True):
        (choice,) = record["response"]["body"]["choices"]
        text = choice["message"]["content"]
        assert {name: row[name] for name in given} == given
        assert (row["custom_id"], row["text"]) == (record["custom_id"], text)
        values = json.loads(text) if row["finish_reason"] == "stop" else {}
        assert row["content"] == values.get("content")
        assert row["answer_stars"] == values.get("stars")
        logprobs = [entry["logprob"] for entry in choice["logprobs"]["content"]]
        assert row["cumulative_logprob"] == pytest.approx(sum(logprobs), abs=1e-3)
    assert {row["answer_stars"] for row in found} & {1, 2, 3}
    assert (
        reviews("plan", "--table", "t.csv", "--template", "t.toml", "--results", "r.parquet") == 0
    )
