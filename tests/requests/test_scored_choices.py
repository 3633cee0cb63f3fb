"""`score_choices` in batch files and for whole jobs: what is accepted, errors, records."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import orjson
import pytest

from shoal.answers.detokenize import Detokenizer
from shoal.config import EngineOptions
from shoal.errors import InvalidRequestError, OptionError
from shoal.jobs import JobSpec, plan_job
from shoal.requests.index import LineName
from shoal.requests.scored_choices import AskedChoices, parse_choices, read_choices
from shoal.requests.validate import Validator
from shoal.results.records import RecordWriter
from shoal.types import (
    CHAT_URL,
    COMPLETIONS_URL,
    Choice,
    Completion,
    Normalisation,
    RequestParams,
    ScoredChoices,
    TokenLogprob,
)
from tests.helpers.job_files import byte_tokenizer, chat, completion
from tests.helpers.job_process import Job
from tests.helpers.request_tables import table

LABELS = ["refund", "login"]
JOBS = AskedChoices(("a", "b"), Normalisation.sum, "--choices")
FORM = {"type": "json_object"}


def parsed(line: dict[str, Any], choices: AskedChoices | None = None) -> Any:
    return Validator({"toy"}, 100, {}, choices=choices).request(line)


@pytest.mark.parametrize("line", [chat, completion])
def test_the_ways_to_ask(line: Any) -> None:
    found = parsed(line("a", score_choices=LABELS)).choices
    assert found == AskedChoices(tuple(LABELS), Normalisation.sum, "body.score_choices")
    asked = {"choices": LABELS, "probabilities": "mean"}
    assert parsed(line("a", score_choices=asked)).choices.normalisation is Normalisation.mean
    assert parsed(line("a", score_choices=None)).choices is None
    # Limits and ways of drawing are those of a generation, and there is none.
    idle = {"temperature": 0.5, "max_tokens": 3, "seed": 1, "stop": "x", "min_tokens": 1}
    assert parsed(line("a", score_choices=LABELS, **idle)).choices == found


def test_the_jobs_choices_are_for_lines_that_ask_for_no_form() -> None:
    assert parsed(chat("a"), JOBS).choices is JOBS
    assert parsed(chat("a", response_format={"type": "text"}), JOBS).choices is JOBS
    assert parsed(chat("a", score_choices=LABELS), JOBS).choices.texts == tuple(LABELS)
    for form in ({"response_format": FORM}, {"structured_outputs": {"choice": ["x"]}}):
        assert parsed(chat("a", **form), JOBS).choices is None
    with pytest.raises(InvalidRequestError, match=r"^body.n does not go with --choices") as caught:
        parsed(chat("a", n=2), JOBS)
    assert caught.value.param == "body.n"


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ("refund", "body.score_choices"),
        ([], "body.score_choices"),
        (["a", 3], "body.score_choices[1]"),
        (["a", ""], "body.score_choices[1]"),
        (["a", "b", "a"], "body.score_choices[2]"),
        ({}, "body.score_choices.choices"),
        ({"choices": ["a"], "probabilities": "max"}, "body.score_choices.probabilities"),
        ({"choices": ["a", "a"]}, "body.score_choices.choices[1]"),
        ({"choices": ["a"], "labels": []}, "body.score_choices.labels"),
    ],
)
def test_wrong_choices_are_named(asked: Any, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parsed(chat("a", score_choices=asked))
    assert caught.value.param == param


@pytest.mark.parametrize(
    "beside",
    [
        {"n": 2},
        {"logit_bias": {"5": 1}},
        {"presence_penalty": 1},
        {"frequency_penalty": 1},
        {"repetition_penalty": 1.5},
        {"logprobs": True, "logprob_token_ids": [3]},
        {"response_format": FORM},
        {"structured_outputs": {"choice": ["x"]}},
    ],
)
def test_what_scoring_does_not_do_is_refused_by_name(beside: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match="does not go with score_choices") as caught:
        parsed(chat("a", score_choices=LABELS, **beside))
    assert caught.value.param == f"body.{list(beside)[-1]}"
    with pytest.raises(InvalidRequestError, match=r"^body.echo does not go"):
        parsed(completion("a", score_choices=LABELS, echo=True))


def test_the_choices_of_a_job(tmp_path: Path) -> None:
    lines, array = tmp_path / "labels.txt", tmp_path / "labels.json"
    lines.write_text("refund\n log in\n\n")
    array.write_bytes(orjson.dumps({"choices": ["x\ny", "z"], "probabilities": "mean"}))
    assert read_choices(None) is None
    assert read_choices(["a", "b"]) == AskedChoices(("a", "b"), Normalisation.sum, "--labels")
    found = read_choices(lines)
    assert found is not None
    assert found.texts == ("refund", " log in")
    found = read_choices(array)
    assert found == AskedChoices(("x\ny", "z"), Normalisation.mean, "--choices")
    array.write_text("[1]")
    for wrong, message in [
        (tmp_path / "none", "cannot read the choices in .*none: No such file"),
        (array, r"--choices\[0\] must be a string, not a number"),
        (["a", "a"], r"--labels\[1\] is the same as --labels\[0\]"),
    ]:
        with pytest.raises(OptionError, match=message):
            read_choices(wrong)
    with pytest.raises(OptionError, match="--schema and the choices"):
        JobSpec(input="a.jsonl", output="b.jsonl", schema="s.json", choices=["a"])


def scored_by_prompts(first: int, *values: list[float]) -> list[Completion]:
    """Requests whose prompts end with a choice each, behind two tokens of context."""
    found = []
    for number, logprobs in enumerate(values):
        before = [TokenLogprob(5, None), TokenLogprob(5, -9.0, ((1, -0.1),))]
        # The likeliest token is the choice's where its logprob is above ln 1/2.
        own = [TokenLogprob(7, lp, ((7 if lp > -0.69 else 8, -0.1),)) for lp in logprobs]
        length = 2 + len(logprobs)
        empty = (Choice(0, "", (), "length"),)
        found.append(Completion(first + number, length, empty, prompt_logprobs=(*before, *own)))
    return found


CHOICES = ScoredChoices(("refund", "login now"), (1, 2), 2, Normalisation.mean)
NAMED = ScoredChoices(("yes", "no"), (1, 1), 1, Normalisation.sum)
TABLE = table(
    [
        ([5, 5, 7], RequestParams(max_tokens=0, prompt_logprobs=1, choices=CHOICES), 1),
        ([5, 5, 7, 7], RequestParams(max_tokens=0, prompt_logprobs=1, choices=CHOICES), 1),
        ([5, 5], RequestParams(logprob_token_ids=(3, 4), choices=NAMED), 1),
        ([5, 5, 6], RequestParams(logprob_token_ids=(3, 4), choices=NAMED), 1),
    ]
)


def body_of(url: str, prompts: list[Completion]) -> dict[str, Any]:
    writer = RecordWriter("job", "toy", Detokenizer(byte_tokenizer()))
    record: dict[str, Any] = orjson.loads(writer.success(0, LineName("a", url), prompts, TABLE))
    return record["response"]["body"]  # type: ignore[no-any-return]


def test_a_chats_record() -> None:
    body = body_of(CHAT_URL, scored_by_prompts(0, [-2.0], [-0.5, -1.0]))
    (choice,) = body["choices"]
    first, second = math.exp(-2.0), math.exp(-0.75)
    shares = [first / (first + second), second / (first + second)]
    assert choice["message"] == {"role": "assistant", "content": "login now", "refusal": None}
    assert choice["finish_reason"] == "stop"
    (entry,) = choice["logprobs"]["content"]
    assert entry["token"] == "login now"
    assert [top["token"] for top in entry["top_logprobs"]] == ["login now", "refund"]
    logprobs = [top["logprob"] for top in entry["top_logprobs"]]
    assert logprobs == pytest.approx([math.log(shares[1]), math.log(shares[0])])
    assert entry["logprob"] == logprobs[0]
    told = choice["score_choices"]
    assert [score.pop("probability") for score in told] == pytest.approx(shares)
    assert told == [
        {"choice": "refund", "logprob": -2.0, "tokens": 1, "greedy": False},
        {"choice": "login now", "logprob": -1.5, "tokens": 2, "greedy": False},
    ]
    # The context's two tokens once, and those of the choices; nothing is generated.
    assert body["usage"] == {"prompt_tokens": 5, "completion_tokens": 0, "total_tokens": 5}


def test_a_completions_record_has_an_answer_per_prompt() -> None:
    def named(request: int, sampled: int, *logprobs: float) -> Completion:
        pairs = tuple(zip((3, 4), logprobs, strict=True))
        entry = TokenLogprob(sampled, -0.1, (), 1, pairs)
        answer = Choice(0, "?", (sampled,), "length", (entry,))
        return Completion(request, 2 + request % 2, (answer,))

    body = body_of(COMPLETIONS_URL, [named(2, 3, -0.1, -3.1), named(3, 9, -math.inf, -4.0)])
    first, second = body["choices"]
    assert (first["index"], first["text"], second["index"], second["text"]) == (0, "yes", 1, "no")
    assert [score["greedy"] for score in first["score_choices"]] == [True, False]
    assert [score["greedy"] for score in second["score_choices"]] == [False, False]
    assert first["logprobs"]["tokens"] == ["yes"]
    (top,) = first["logprobs"]["top_logprobs"]
    assert list(top) == ["yes", "no"]
    assert sum(map(math.exp, top.values())) == pytest.approx(1)
    assert first["logprobs"]["token_logprobs"] == [top["yes"]]
    assert second["logprobs"]["top_logprobs"] == [{"no": 0.0, "yes": -9999.0}]
    assert second["score_choices"][0] == {
        "choice": "yes",
        "logprob": -9999.0,
        "tokens": 1,
        "greedy": False,
        "probability": 0.0,
    }
    assert body["usage"]["prompt_tokens"] == 2 + 2 + 3 + 2


def test_a_line_without_room_for_its_choices_is_refused(job: Job) -> None:
    """The byte tokenizer's model has a short context; and a plan knows the choices, too."""
    job.write([chat("a", score_choices=["x", "y" * 2000]), chat("b", score_choices=["x", "yy"])])
    planned = plan_job(job.input, str(job.model), EngineOptions(device="cpu"))
    assert [line for line, _ in planned.rejected] == [1]
    assert planned.rejected[0][1].code == "context_length_exceeded"
    assert planned.table.line.tolist() == [1, 1]
    planned = plan_job(
        job.input, str(job.model), EngineOptions(device="cpu"), choices=["p", "q", "r"]
    )
    assert planned.table.line.tolist() == [1, 1], "each line has choices of its own"
    job.write([chat("a"), completion("b", ["ab", "c"], n=1)])
    planned = plan_job(
        job.input, str(job.model), EngineOptions(device="cpu"), choices=["p", "q", "r"]
    )
    assert planned.table.line.tolist() == [0, 1, 1], "a token each: one request tells"
    assert parse_choices(["p"], "x").digest != parse_choices(["q"], "x").digest


def test_choices_are_part_of_a_jobs_identity(description: Any) -> None:
    from shoal.disk import ContentDigest
    from shoal.jobs.header import JobHeader

    content = ContentDigest("0" * 32, 5)
    asked = [parse_choices(some, "--choices") for some in (["a"], ["b"])]
    headers = [JobHeader.new(content, description, (), None, c) for c in (None, *asked)]
    assert [bool(headers[i].changes_to(headers[j])) for i, j in ((0, 1), (1, 2), (1, 1))] == [
        True,
        True,
        False,
    ]
    assert "choices" not in headers[0].options, "journals of older versions go on"
