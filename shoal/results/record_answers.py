"""The answers in an output record, whichever endpoint's shape it has.

Records that a server answered may lack what is no answer: `logprobs`, `usage`, a finish reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

Called = list[dict[str, str]]
"""Calls of tools: {"id", "name", "arguments"}, the arguments as JSON."""
TopLogprobs = list[dict[str, Any]]
"""The likeliest tokens in one place: {"token", "logprob"}."""


@dataclass(frozen=True, slots=True)
class RecordAnswer:
    """One answer of a record.

    Attributes:
        finish_reason: "stop", "length" or "tool_calls"; of a server also what else it calls it.
        tokens: the text of each token, where logprobs were asked for, with `logprobs` and `top`
            of the same length. In both, None stands for a first prompt token.
        calls: of tools; none where there are none.
        reasoning: what came before the text; None where there is none, or it is not told apart.
        probabilities: of each choice, in order, where choices were scored.
    """

    text: str | None
    finish_reason: str | None
    tokens: list[str] | None = None
    logprobs: list[float | None] | None = None
    top: list[TopLogprobs | None] | None = None
    probabilities: dict[str, float] | None = None
    calls: Called | None = None
    reasoning: str | None = None

    @property
    def cumulative_logprob(self) -> float | None:
        """The sum over its tokens."""
        if self.logprobs is None:
            return None
        return sum(logprob for logprob in self.logprobs if logprob is not None)


def answers_of(body: Mapping[str, Any]) -> list[RecordAnswer]:
    """The answers in a record's `response.body`, in order, at least one."""
    if body.get("object") == "response":
        return [_of_response(body)]
    return [
        _scored((_of_chat if "message" in choice else _of_completion)(choice), choice)
        for choice in body["choices"]
    ]


def _scored(answer: RecordAnswer, choice: Mapping[str, Any]) -> RecordAnswer:
    """The answer with the probabilities of its choices, if these were scored."""
    if (scores := choice.get("score_choices")) is None:
        return answer
    told = {score["choice"]: score["probability"] for score in scores}
    return replace(answer, probabilities=told)


def token_counts(body: Mapping[str, Any]) -> tuple[int, int]:
    """Tokens of the prompts, and tokens generated."""
    usage = body.get("usage") or {}
    kinds = ("input", "output") if body.get("object") == "response" else ("prompt", "completion")
    prompt, generated = (int(usage.get(f"{kind}_tokens") or 0) for kind in kinds)
    return prompt, generated


def reasoning_tokens(body: Mapping[str, Any]) -> int | None:
    """How many of the generated tokens were reasoning; None where nobody says."""
    usage = body.get("usage") or {}
    kind = "output" if body.get("object") == "response" else "completion"
    found: int | None = (usage.get(f"{kind}_tokens_details") or {}).get("reasoning_tokens")
    return found


def _of_response(body: Mapping[str, Any]) -> RecordAnswer:
    parts, thoughts = _parts(body, "message"), _parts(body, "reasoning")
    reason = "stop" if body.get("status") == "completed" else "length"
    answer = RecordAnswer(None, reason)
    if parts:
        answer = _with_logprobs(parts[0]["text"], reason, parts[0].get("logprobs") or None)
    return replace(answer, reasoning="".join(part["text"] for part in thoughts) or None)


def _parts(body: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    """The texts in the items of a kind of a response's output."""
    items = [item for item in body["output"] if item.get("type", "message") == kind]
    return [part for item in items for part in item.get("content") or () if "text" in part]


def _of_chat(choice: Mapping[str, Any]) -> RecordAnswer:
    entries = (choice.get("logprobs") or {}).get("content")
    message = choice["message"]
    answer = _with_logprobs(message.get("content"), choice.get("finish_reason"), entries)
    calls = [{"id": call["id"], **call["function"]} for call in message.get("tool_calls") or ()]
    # vLLM's name now, and what it was before; servers have one of them or both.
    reasoning = message.get("reasoning") or message.get("reasoning_content")
    return replace(answer, calls=calls or None, reasoning=reasoning)


def _with_logprobs(
    text: str | None, reason: str | None, entries: list[dict[str, Any]] | None
) -> RecordAnswer:
    if entries is None:
        return RecordAnswer(text, reason)
    return RecordAnswer(
        text,
        reason,
        [entry["token"] for entry in entries],
        [entry["logprob"] for entry in entries],
        [[_token(top) for top in entry.get("top_logprobs") or []] for entry in entries],
    )


def _token(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {"token": entry["token"], "logprob": entry["logprob"]}


def _of_completion(choice: Mapping[str, Any]) -> RecordAnswer:
    logprobs = choice.get("logprobs")
    text, reason = choice["text"], choice.get("finish_reason")
    if not logprobs or "tokens" not in logprobs:  # some servers have a form of their own
        return RecordAnswer(text, reason)
    top = [
        None if by_text is None else [{"token": t, "logprob": p} for t, p in by_text.items()]
        for by_text in logprobs.get("top_logprobs") or [None] * len(logprobs["tokens"])
    ]
    return RecordAnswer(text, reason, logprobs["tokens"], logprobs["token_logprobs"], top)
