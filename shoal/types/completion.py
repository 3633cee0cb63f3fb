"""What becomes of a request: its answers, or the error that ended it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from shoal.errors import InvalidRequestError
from shoal.types.arrays import Float32Array

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log-probability (natural log, of the unmodified distribution) of one token.

    `top` holds the most likely (token id, logprob) pairs, most likely first. `rank` is how many
    tokens are as likely or likelier, itself included. `logprob` and `rank` are None for the first
    prompt token, which nothing precedes, and for those before the first that is scored. `named`
    holds the tokens of `logprob_token_ids`, in their order; then `top` is empty.
    """

    token_id: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()
    rank: int | None = None
    named: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """One generated answer.

    Attributes:
        text: what was generated, as it reads after the prompt, without what stopped it unless
            `include_stop_str_in_output`; with `echo`, after the prompt's text.
        token_ids: every generated token, including the one that completed a stop.
        finish_reason: "stop" (end of sequence or a stop) or "length".
        logprobs: one per generated token (after one per prompt token under `echo`), or None.
        stop_reason: the stop string or the one of `stop_token_ids` that ended it; None where the
            model's end of sequence or the length did.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprob, ...] | None = None
    stop_reason: int | str | None = None


@dataclass(frozen=True, slots=True)
class ServerAnswer:
    """What a server answered to a line that was sent on to it: an HTTP status and a JSON object."""

    status_code: int
    body: dict[str, Any]

    @property
    def succeeded(self) -> bool:
        """Whether the body is a result; else it is an error."""
        return self.status_code == 200

    def tokens(self, name: str) -> int:
        """A count of the body's `usage`, for example `completion_tokens`; 0: it does not say."""
        usage = self.body.get("usage")
        value = usage.get(name) if isinstance(usage, dict) else None
        return value if type(value) is int and value >= 0 else 0

    @property
    def cached_tokens(self) -> int | None:
        """Prompt tokens that were in the server's prefix cache; None: it does not say."""
        usage = self.body.get("usage")
        details = usage.get("prompt_tokens_details") if isinstance(usage, dict) else None
        value = details.get("cached_tokens") if isinstance(details, dict) else None
        return value if type(value) is int and value >= 0 else None


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished request: its choices, or the error that ended it.

    `prompt_logprobs` has one entry per prompt token, where they are asked for: None as logprob of
    those before the first that is scored. `vector`, float32, is what a pooling model gives of the
    prompt, which then has no choices. `answer` is a server's, of the request's whole line; the
    first request of the line has it, and none of them has choices.
    """

    request_index: int
    prompt_tokens: int
    choices: tuple[Choice, ...]
    error: InvalidRequestError | None = None
    prompt_logprobs: Sequence[TokenLogprob] | None = None
    vector: Float32Array | None = None
    answer: ServerAnswer | None = None

    @property
    def generated_tokens(self) -> int:
        """Tokens generated over all choices."""
        if self.answer is not None:
            return self.answer.tokens("completion_tokens")
        return sum(len(choice.token_ids) for choice in self.choices)
