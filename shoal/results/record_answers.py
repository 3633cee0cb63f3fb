"""The answers in an output record, whichever endpoint's shape it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

TopLogprobs = list[dict[str, Any]]
"""The likeliest tokens in one place: {"token", "logprob"}."""


@dataclass(frozen=True, slots=True)
class RecordAnswer:
    """One answer of a record.

    Attributes:
        finish_reason: "stop" or "length".
        tokens: the text of each token, where logprobs were asked for, with `logprobs` and `top`
            of the same length. In both, None stands for a first prompt token.
        probabilities: of each choice, in order, where choices were scored.
    """

    text: str | None
    finish_reason: str
    tokens: list[str] | None = None
    logprobs: list[float | None] | None = None
    top: list[TopLogprobs | None] | None = None
    probabilities: dict[str, float] | None = None

    @property
    def cumulative_logprob(self) -> float | None:
        """The sum over its tokens."""
        if self.logprobs is None:
            return None
        return sum(logprob for logprob in self.logprobs if logprob is not None)


def answers_of(body: Mapping[str, Any]) -> list[RecordAnswer]:
    """The answers in a record's `response.body`, in order, at least one."""
    if body["object"] == "response":
        return [_of_response(body)]
    if body["object"] == "chat.completion":
        return [_scored(_of_chat(choice), choice) for choice in body["choices"]]
    return [_scored(_of_completion(choice), choice) for choice in body["choices"]]


def _scored(answer: RecordAnswer, choice: Mapping[str, Any]) -> RecordAnswer:
    """The answer with the probabilities of its choices, if these were scored."""
    if (scores := choice.get("score_choices")) is None:
        return answer
    told = {score["choice"]: score["probability"] for score in scores}
    return replace(answer, probabilities=told)


def token_counts(body: Mapping[str, Any]) -> tuple[int, int]:
    """Tokens of the prompts, and tokens generated."""
    usage = body["usage"]
    if body.get("object") == "response":
        return int(usage["input_tokens"]), int(usage["output_tokens"])
    return int(usage["prompt_tokens"]), int(usage["completion_tokens"])


def _of_response(body: Mapping[str, Any]) -> RecordAnswer:
    (part,) = (part for item in body["output"] for part in item["content"])
    reason = "stop" if body["status"] == "completed" else "length"
    return _with_logprobs(part["text"], reason, part["logprobs"] or None)


def _of_chat(choice: Mapping[str, Any]) -> RecordAnswer:
    logprobs = choice["logprobs"]
    entries = None if logprobs is None else logprobs["content"]
    return _with_logprobs(choice["message"]["content"], choice["finish_reason"], entries)


def _with_logprobs(
    text: str | None, reason: str, entries: list[dict[str, Any]] | None
) -> RecordAnswer:
    if entries is None:
        return RecordAnswer(text, reason)
    return RecordAnswer(
        text,
        reason,
        [entry["token"] for entry in entries],
        [entry["logprob"] for entry in entries],
        [[_token(top) for top in entry["top_logprobs"]] for entry in entries],
    )


def _token(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {"token": entry["token"], "logprob": entry["logprob"]}


def _of_completion(choice: Mapping[str, Any]) -> RecordAnswer:
    logprobs = choice["logprobs"]
    text, reason = choice["text"], choice["finish_reason"]
    if logprobs is None:
        return RecordAnswer(text, reason)
    top = [
        None if by_text is None else [{"token": t, "logprob": p} for t, p in by_text.items()]
        for by_text in logprobs["top_logprobs"]
    ]
    return RecordAnswer(text, reason, logprobs["tokens"], logprobs["token_logprobs"], top)
