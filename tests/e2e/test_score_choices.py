"""Whole jobs of scored choices: the same scores as `LLM.score_choices`, also after a kill."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from shoal import LLM, EngineOptions, JobSpec, run_job
from shoal.errors import JobChangedError, OutputWriteError
from shoal.jobs import open_job

OPTIONS = EngineOptions(dtype="float32", kv_memory="16MiB", device="cpu")
MESSAGES = [{"role": "user", "content": "My parcel is late. Which queue?"}]
CHOICES = ["refund", "login", "delay"]
LONG = [" refund", " I do not know", " the delay queue"]
PROMPTS = ["Ticket: pay me back.\nQueue:", "Ticket: where is my parcel?\nQueue: "]


def line(name: str, chat: bool = True, **body: Any) -> dict[str, Any]:
    url = "/v1/chat/completions" if chat else "/v1/completions"
    prompt = {"messages": MESSAGES} if chat else {"prompt": PROMPTS}
    return {
        "custom_id": name,
        "method": "POST",
        "url": url,
        "body": {"model": "*", "max_tokens": 3, "temperature": 0} | prompt | body,
    }


LINES = [
    line("of the job"),
    line("own", score_choices=LONG),
    line("own form", structured_outputs={"choice": ["yes", "no"]}),
    line("prompts", chat=False, score_choices={"choices": LONG, "probabilities": "mean"}),
    line("ids", chat=False, prompt=[[5, 6, 7], [8, 9]], score_choices=LONG),
    line("wrong", score_choices=["a", "a"]),
]


@pytest.fixture
def spec(tmp_path: Path) -> JobSpec:
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(each) + "\n" for each in LINES))
    return JobSpec(
        input=tmp_path / "in.jsonl",
        output=tmp_path / "out.jsonl",
        options=OPTIONS,
        served_names=["*"],
        choices=CHOICES,
        quiet=True,
    )


def records(path: Path) -> dict[str, Any]:
    """The body of each record, by custom_id."""
    found = [json.loads(record) for record in path.read_text().splitlines()]
    return {record["custom_id"]: record["response"]["body"] for record in found}


def told(body: dict[str, Any]) -> list[Any]:
    """What does not depend on the run, numbers to three digits."""
    scores = [
        [(s["choice"], s["greedy"], round(s["probability"], 3)) for s in answer["score_choices"]]
        for answer in body["choices"]
        if "score_choices" in answer
    ]
    return [scores, body["usage"], [answer.get("text") for answer in body["choices"]]]


@pytest.mark.long
def test_a_job_tells_what_python_tells(spec: JobSpec) -> None:
    result = run_job(spec)
    assert result.exit_code == 3
    assert result.errors is not None
    (error,) = records(result.errors).values()
    assert "body.score_choices[1] is the same as body.score_choices[0]" in error["error"]["message"]
    found = records(spec.output)
    assert list(found) == [each["custom_id"] for each in LINES[:-1]]
    assert found["own form"]["choices"][0]["message"]["content"] in ("yes", "no")
    assert "score_choices" not in found["own form"]["choices"][0]

    llm = LLM(dtype="float32", kv_memory="16MiB")

    def check(name: str, contexts: Any, choices: list[str], how: str = "sum") -> None:
        expected = llm.score_choices(contexts, choices, probabilities=how, use_tqdm=False)
        answers = found[name]["choices"]
        for answer, scored in zip(answers, expected, strict=True):
            assert scored.best is not None
            text = answer["message"]["content"] if "message" in answer else answer["text"]
            assert text == choices[scored.best]
            told = answer["score_choices"]
            assert [score["choice"] for score in told] == choices
            for score, other in zip(told, scored.scores, strict=True):
                assert score["logprob"] == pytest.approx(other.logprob, abs=1e-4)
                assert (score["tokens"], score["greedy"]) == (other.tokens, other.greedy)
                assert score["probability"] == pytest.approx(other.probability, abs=1e-4)
            logprobs = answer["logprobs"]
            if "content" in logprobs:
                tops = logprobs["content"][0]["top_logprobs"]
                shares = {top["token"]: top["logprob"] for top in tops}
            else:
                shares = logprobs["top_logprobs"][0]
            for score in told:
                assert math.exp(shares[score["choice"]]) == pytest.approx(score["probability"])

    check("of the job", MESSAGES, CHOICES)
    check("own", MESSAGES, LONG)
    check("prompts", PROMPTS, LONG, "mean")
    check("ids", [[5, 6, 7], [8, 9]], LONG)


@pytest.mark.long
def test_a_job_goes_on_after_a_kill(spec: JobSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    run_job(spec)
    whole = records(spec.output)
    again = JobSpec(**{**vars(spec), "restart": True})
    with monkeypatch.context() as patch:

        def full(*arguments: object) -> None:
            raise OutputWriteError("no space")

        patch.setattr(open_job, "finish_job", full)
        with pytest.raises(OutputWriteError):
            run_job(again)
    journal = spec.output.with_name("out.jsonl.journal")
    frames = journal.read_bytes().splitlines(keepends=True)
    done = [i for i, frame in enumerate(frames) if b" done " in frame[:40]]
    assert len(done) == len(LINES) - 1
    del frames[done[0]]
    journal.write_bytes(b"".join(frames)[:-20])  # and the last record is torn
    with pytest.raises(JobChangedError, match="choices was"):
        run_job(JobSpec(**{**vars(spec), "choices": ["refund", "login"]}))
    run_job(spec)
    resumed = records(spec.output)
    assert list(resumed) == list(whole)
    for name, body in whole.items():
        assert told(resumed[name]) == told(body)
