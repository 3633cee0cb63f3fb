from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from transformers import ByT5Tokenizer

from shoal.errors import InvalidRequestError, JobChangedError
from shoal.jobs.planned_job import plan_job
from shoal.model.description import ModelDescription
from shoal.prompts import chat_template
from shoal.requests import JobInput, read_job, reader
from shoal.requests.lines import LineReader, digest_input
from tests.helpers.job_files import chat, completion, read_records, write_lines
from tests.helpers.job_process import Job

Rejections = dict[int, tuple[str | None, InvalidRequestError]]


@pytest.fixture
def read(tmp_path: Path, description: ModelDescription) -> Callable:
    def read_lines(lines: list, **options: object) -> tuple[JobInput, Rejections]:
        rejected: Rejections = {}

        def reject(line: int, custom_id: str | None, error: InvalidRequestError) -> None:
            assert line not in rejected
            rejected[line] = (custom_id, error)

        path = write_lines(tmp_path / "in.jsonl", lines)
        options = {"capacity_tokens": 10_000, "names": (), "reject": reject} | options
        job = read_job(path, description, **options)
        assert job.rejected == len(rejected)
        assert job.digest == digest_input(path)
        return job, rejected

    return read_lines


def codes(rejected: Rejections) -> dict[int, str]:
    return {line: error.code for line, (_, error) in rejected.items()}


def test_good_lines(read: Callable) -> None:
    lines = [
        chat("a", "hi"),
        completion("b", "once", n=2, seed=5),
        completion("c", [7, 8, 9]),
        completion("d", ["x", "yz"], max_tokens=None),
    ]
    job, rejected = read(lines, job_seed=11)
    assert not rejected
    table = job.table
    assert job.requests == 4
    assert table.line.tolist() == [0, 1, 2, 3, 3]
    prompts = [table.prompt(i).tolist() for i in range(5)]
    assert [len(p) for p in prompts] == [len("<user>hi\n<assistant>"), 4, 3, 1, 2]
    assert prompts[2] == [7, 8, 9]
    assert table.max_new_tokens.tolist() == [8, 8, 8, 16, 16]
    assert table.has_seed.tolist() == [False, True, False, False, False]
    assert table.seeds[1] == 5
    assert table.job_seed == 11
    assert [job.index.name(i).custom_id for i in range(4)] == ["a", "b", "c", "d"]
    assert job.index.name(1).url == "/v1/completions"


def test_bad_lines_and_their_reasons(read: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "LineReader", partial(LineReader, max_line_bytes=2000))
    lines = [
        b"not json",
        chat("a"),
        chat("b", temperature=9),
        chat("a"),
        b"",
        chat("d", "x" * 600),
        chat("e", "x" * 50, max_tokens=60),
        completion("f", ["ok", "x" * 600]),
        b'{"custom_id": "g", "x": "\xff"}',
        chat("h", messages=[{"role": "villain", "content": "x"}]),
        chat("b"),
        chat("y" * 5000),
    ]
    job, rejected = read(lines, capacity_tokens=100)
    assert codes(rejected) == {
        0: "invalid_json_line",
        2: "invalid_value",
        3: "duplicate_custom_id",
        5: "context_length_exceeded",
        6: "kv_memory_exceeded",
        7: "context_length_exceeded",
        8: "invalid_json_line",
        9: "chat_template_error",
        10: "duplicate_custom_id",
        11: "invalid_json_line",
    }
    assert job.table.line.tolist() == [1]
    assert {line: name for line, (name, _) in rejected.items() if name is not None} == {
        2: "b", 3: "a", 5: "d", 6: "e", 7: "f", 9: "h", 10: "b",
    }  # fmt: skip
    assert rejected[7][1].param == "body.prompt[1]"
    assert "line 2" in rejected[3][1].message


def test_all_but_the_first_of_equal_ids_are_refused(read: Callable) -> None:
    job, rejected = read([chat(name, name * 3) for name in "abacabad"])
    assert list(rejected) == [2, 4, 5, 6]
    assert job.table.line.tolist() == [0, 1, 3, 7]
    for i, name in enumerate("abcd"):
        text = bytes(job.table.prompt(i).astype("uint8"))
        assert len(text) == len("<user>aaa\n<assistant>")
        assert job.index.name(int(job.table.line[i])).custom_id == name


def test_a_duplicate_that_is_wrong_keeps_its_own_reason(read: Callable) -> None:
    _, rejected = read([chat("a"), chat("a", n=0)])
    assert codes(rejected) == {1: "invalid_value"}


def test_finished_lines_are_counted_and_keep_their_names_taken(read: Callable) -> None:
    lines = [chat("a"), chat("b"), chat("a"), chat("c")]
    job, rejected = read(lines, skip=lambda line: line == 0)
    assert job.table.line.tolist() == [1, 3]
    assert codes(rejected) == {2: "duplicate_custom_id"}
    assert job.requests == 4


def test_names_the_model_goes_by(read: Callable, description: ModelDescription) -> None:
    lines = [chat(str(i), model=m) for i, m in enumerate(["toy", description.id, "alias", "x"])]
    assert codes(read(lines, names=["alias"])[1]) == {3: "model_not_found"}
    assert not read(lines, names=["*"])[1]


def test_only_completions_get_the_tokenizers_special_tokens(
    tmp_path: Path, description: ModelDescription
) -> None:
    tokenizer = ByT5Tokenizer()
    tokenizer.chat_template = "{{ messages[0].content }}"
    model = replace(description, tokenizer=tokenizer, vocab_size=len(tokenizer))
    path = write_lines(tmp_path / "in.jsonl", [chat("a", "hi"), completion("b", "hi")])
    job = read_job(path, model, capacity_tokens=1000, names=(), reject=print)
    chat_ids, completion_ids = job.table.prompt(0).tolist(), job.table.prompt(1).tolist()
    assert completion_ids == [*chat_ids, tokenizer.eos_token_id]


GUARD = (
    "{% for m in messages if m.role != 'system' %}<{{ m.role }}>"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'text') %}{{ c['text'] }}"
    "{% if 'boom' in c['text'] %}"
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}"
    "{% endfor %}{% endfor %}"
)


def test_text_arrives_or_its_line_is_refused_and_plan_agrees(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_template, "RENDER_SECONDS", 0.2)
    guarded = Path(shutil.copytree(model, tmp_path / "toy"))
    (guarded / "chat_template.jinja").write_text(GUARD)
    system = {"role": "system", "content": "one"}
    lines = [
        chat("a", "one"),
        chat("b", messages=[system, {"role": "user", "content": "one"}]),
        chat("c", "boom"),
        chat("d", messages=[{"role": "user", "content": [{"type": "text", "text": "two"}]}]),
        chat("e", "three"),
    ]
    expected = {1: "chat_template_error", 2: "chat_template_timeout"}
    job = Job(tmp_path, guarded).write(lines)
    job.run()
    errors = {r["custom_id"]: r["response"]["body"]["error"] for r in read_records(job.errors)}
    assert {name: error["code"] for name, error in errors.items()} == {
        "b": expected[1],
        "c": expected[2],
    }
    assert errors["b"]["param"] == "body.messages[0].content"
    (engine,) = job.engines
    decode = engine.description.tokenizer.decode
    prompts = [decode(engine.table.prompt(i)) for i in range(3)]
    assert prompts == ["<user>one", "<user>two", "<user>three"]
    planned = plan_job(job.input, str(guarded), engine.options)
    assert {line - 1: error.code for line, error in planned.rejected} == expected
    assert planned.table.tokens.tolist() == engine.table.tokens.tolist()


def test_many_batches_keep_their_order(read: Callable) -> None:
    makers = (chat, completion)
    lines = [makers[i % 2](str(i), f"{i} " + "x" * (i % 50)) for i in range(1500)]
    lines[700] = b"?"
    job, rejected = read(lines)
    assert list(rejected) == [700]
    expected = [i for i in range(1500) if i != 700]
    assert job.table.line.tolist() == expected
    tokenizer_ids = job.table.prompt(expected.index(1499)).tolist()
    assert len(tokenizer_ids) == len("1499 ") + 1499 % 50


def test_a_line_that_changes_while_the_job_runs_is_noticed(read: Callable, tmp_path: Path) -> None:
    job, _ = read([chat("a"), chat("b")])
    write_lines(tmp_path / "in.jsonl", [chat("a"), chat("X")])
    assert job.index.name(0).custom_id == "a"
    with pytest.raises(JobChangedError, match="line 2"):
        job.index.name(1)


def test_an_empty_file_is_an_empty_job(read: Callable) -> None:
    job, rejected = read([])
    assert (job.requests, len(job.table), rejected) == (0, 0, {})


MEASURE = """
import resource, sys
from pathlib import Path
from shoal.requests import read_job
from tests.helpers.job_files import describe
description = describe(sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
job = read_job(Path(sys.argv[1]), description, capacity_tokens=10_000, names=(), reject=print)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(len(job.table), len(job.table.tokens), (after - before) * 1024)
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("requests", "tokens"), [(4000, 400), pytest.param(200_000, 500, marks=pytest.mark.slow)]
)
def test_memory_is_bounded_by_token_ids(
    tmp_path: Path, model: Path, requests: int, tokens: int
) -> None:
    path = tmp_path / "in.jsonl"
    with path.open("w") as file:
        for i in range(requests):
            prompt = f"{i:07}" + "x" * (tokens - 7)
            file.write(
                f'{{"custom_id": "r{i}", "method": "POST", "url": "/v1/completions", '
                f'"body": {{"model": "toy", "prompt": "{prompt}", "max_tokens": 8}}}}\n'
            )
    command = [sys.executable, "-c", MEASURE, str(path), str(model)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    count, total, grown = map(int, output.split())
    assert (count, total) == (requests, requests * tokens)
    batches = 250 * 2**20
    assert grown < total * 4 * 1.1 + requests * 200 + batches
