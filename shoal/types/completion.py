"""What becomes of a request: its answers, or the error that ended it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from shoal.errors import InvalidRequestError

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log-probability (natural log, of the unmodified distribution) of one token.

    `top` holds the most likely (token id, logprob) pairs, most likely first. `rank` is how many
    tokens are as likely or likelier, itself included. `logprob` and `rank` are None for the first
    prompt token, which nothing precedes, and for those before the first that is scored.
    """

    token_id: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()
    rank: int | None = None


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
class Completion:
    """A finished request: its choices, or the error that ended it.

    `prompt_logprobs` has one entry per prompt token, where they are asked for: None as logprob of
    those before the first that is scored.
    """

    request_index: int
    prompt_tokens: int
    choices: tuple[Choice, ...]
    error: InvalidRequestError | None = None
    prompt_logprobs: Sequence[TokenLogprob] | None = None

    @property
    def generated_tokens(self) -> int:
        """Tokens generated over all choices."""
        return sum(len(choice.token_ids) for choice in self.choices)
