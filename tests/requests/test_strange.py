"""Whatever a line holds, it gives one request that can run or one refusal, and the job goes on."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import InvalidRequestError
from shoal.model.description import ModelDescription
from shoal.prompts.render import Renderer
from shoal.requests import read_job
from shoal.requests.parsed_request import ParsedRequest
from shoal.requests.validate import Validator, decode_line
from tests.helpers import strange
from tests.helpers.job_files import chat, completion, read_records, write_lines
from tests.helpers.job_process import Job

pytestmark = pytest.mark.long

VALIDATOR = Validator({"toy"}, 256, {})

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(strange.KEYS),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=4) | st.sampled_from(strange.KEYS), inner, max_size=4)
        | st.builds(
            strange.nested,
            st.randoms(use_true_random=True),
            inner,
            st.sampled_from(strange.DEPTHS),
        )
    ),
    max_leaves=8,
)


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from([chat("a"), completion("a")]),
    st.dictionaries(st.sampled_from(strange.BODY), JSON, max_size=3),
    st.dictionaries(st.sampled_from(strange.ENVELOPE), JSON, max_size=1),
)
def test_a_request_or_a_refusal_and_nothing_else(line: dict, body: dict, top: dict) -> None:
    text = strange.written(line | {"body": line["body"] | body} | top)
    try:
        request = VALIDATOR.request(decode_line(text.encode("utf-8", "surrogatepass")))
    except InvalidRequestError:
        pass
    else:
        assert isinstance(request, ParsedRequest)
        assert request.prompts


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("count", "seed"), [(4000, 1), pytest.param(1_000_000, 2, marks=pytest.mark.slow)]
)
def test_every_strange_line_gives_one_record(
    tmp_path: Path, description: ModelDescription, caplog: pytest.LogCaptureFixture,
    count: int, seed: int, record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    record_property("tries", count)
    path = tmp_path / "in.jsonl"
    with path.open("wb") as file:
        for line in strange.lines(random.Random(seed), count):
            file.write((line or b"?") + b"\n")
    refused: dict[int, str] = {}

    def reject(line: int, custom_id: str | None, error: InvalidRequestError) -> None:
        assert line not in refused
        refused[line] = error.code

    job = read_job(path, description, capacity_tokens=10_000, names=(), reject=reject)
    job.index.close()
    run = set(job.table.line.tolist())
    assert not run & refused.keys()
    assert len(run) + len(refused) == job.requests == count
    assert len(run) > count // 10
    assert "internal_error" not in refused.values(), caplog.text


@pytest.mark.parametrize("depth", [250, 253, 256, 900, 1018])
@pytest.mark.parametrize("name", ["temperature", "logit_bias", "stop", "stop_token_ids", "seed"])
def test_deep_parameters_are_refused_by_name(name: str, depth: int) -> None:
    deep = strange.nested(random.Random(depth), 1, depth)
    line = strange.written(chat("a", **{name: deep}))
    with pytest.raises(InvalidRequestError) as caught:
        VALIDATOR.request(decode_line(line.encode()))
    assert caught.value.param == f"body.{name}"
    assert caught.value.code == "invalid_value"


def test_the_deepest_field_is_named_quickly() -> None:
    wide = strange.nested(random.Random(1), ["x"] * 100_000, 300)
    line = strange.written(completion("a", stop=["x"], logit_bias=wide))
    began = time.perf_counter()
    with pytest.raises(InvalidRequestError, match=r"body\.logit_bias is nested too deeply"):
        VALIDATOR.request(decode_line(line.encode()))
    assert time.perf_counter() - began < 1


class PanicError(BaseException):
    """As tokenizers raises when its own code panics."""


def test_what_nobody_foresaw_fails_one_line_and_is_logged(
    job: Job, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    text, tokenize = Renderer.text, Renderer.tokenize

    def failing_text(self: Renderer, prompt: object, where: str) -> object:
        if "no text" in str(prompt):
            raise ZeroDivisionError("text")
        return text(self, prompt, where)  # type: ignore[arg-type]

    def panicking(self: Renderer, texts: list[str], **options: bool) -> object:
        if any("no ids" in each for each in texts):
            raise PanicError("ids")
        return tokenize(self, texts, **options)

    monkeypatch.setattr(Renderer, "text", failing_text)
    monkeypatch.setattr(Renderer, "tokenize", panicking)
    lines = [chat("a"), chat("b", "no text"), completion("c", "no ids"), completion("d")]
    write_lines(job.input, lines)
    with caplog.at_level(logging.ERROR):
        assert job.run().exit_code == 3
    assert [record["custom_id"] for record in read_records(job.output)] == ["a", "d"]
    failed = {r["custom_id"]: r["response"] for r in read_records(job.errors)}
    assert failed.keys() == {"b", "c"}
    for custom_id, name in (("b", "ZeroDivisionError: text"), ("c", "PanicError: ids")):
        assert failed[custom_id]["status_code"] == 500
        error = failed[custom_id]["body"]["error"]
        assert error["code"] == "internal_error"
        assert name in error["message"]
    assert "ZeroDivisionError" in caplog.text
