"""vLLM's `RequestOutput` and its parts."""

from __future__ import annotations

from dataclasses import dataclass, field

from shoal.errors import InvalidRequestError
from shoal.types import ChoiceScore, Int32Array


@dataclass(slots=True)
class Logprob:
    """What the model thought of a token.

    Attributes:
        logprob: natural log, of the unmodified distribution.
        rank: its place among the likeliest, from 1.
        decoded_token: its text by itself; None without `detokenize`.
    """

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


Logprobs = dict[int, Logprob]
"""Of the likeliest tokens, and of the one that is there."""


@dataclass(slots=True)
class CompletionOutput:
    """One of a prompt's outputs.

    Attributes:
        index: its index among them.
        text: as it reads after the prompt, without what stopped it unless asked for.
        token_ids: all that were generated, also those that stopped it.
        cumulative_logprob: the sum of the tokens' logprobs, if these are asked for.
        logprobs: one entry per token, if asked for.
        finish_reason: "stop" or "length".
        stop_reason: the stop string or stop token that ended it; None for the model's own end of
            sequence and for the length.
    """

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None
    logprobs: list[Logprobs] | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None

    def finished(self) -> bool:
        """Always: outputs are returned whole."""
        return self.finish_reason is not None


@dataclass
class RequestOutput:
    """What became of a prompt. Two are equal if they say the same, whatever their `request_id`.

    Attributes:
        request_id: a number that no other request of the same `LLM` has.
        prompt: its text, for a conversation as the chat template wrote it; None for token ids.
        prompt_logprobs: one entry per token of the prompt, if asked for; None for the first.
        outputs: none where there is an error.
        finished: always true.
        error: why there is no output. vLLM raises where a prompt is wrong; here it fails alone.
    """

    request_id: str = field(compare=False)
    prompt: str | None
    prompt_tokens: Int32Array | None = field(repr=False, compare=False)
    prompt_logprobs: list[Logprobs | None] | None
    outputs: list[CompletionOutput]
    finished: bool = True
    error: InvalidRequestError | None = None

    @property
    def prompt_token_ids(self) -> list[int] | None:
        """The prompt's tokens, a list made when it is asked for; None for a wrong prompt."""
        tokens = self.prompt_tokens
        return None if tokens is None else tokens.tolist()


@dataclass
class ScoredContext:
    """How likely the choices of one context are.

    Attributes:
        scores: one per choice, in order; none where there is an error.
        best: which choice is the most probable, of equals the first; the likeliest where
            probabilities were not asked for; None where there is an error.
        error: why there are no scores.
    """

    scores: list[ChoiceScore]
    best: int | None = None
    error: InvalidRequestError | None = None
