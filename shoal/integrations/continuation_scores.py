"""How likely continuations are: the log-probabilities of their tokens, and which are greedy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from shoal.llm.llm import LLM
from shoal.llm.request_output import RequestOutput
from shoal.llm.sampling_params import SamplingParams

Score = tuple[float, bool]
"""The sum of a continuation's log-probabilities, and whether greedy decoding would write it."""


@dataclass(frozen=True)
class Continuation:
    """Token ids, of which those from `start` on are scored.

    Attributes:
        tokens: context and continuation, at least one of each.
        start: tokens of the context.
    """

    tokens: list[int]
    start: int

    @classmethod
    def of(cls, context: list[int], continuation: list[int], most: int) -> Continuation:
        """A continuation behind as much of the end of its context as fits.

        Args:
            most: tokens of both together.

        Raises:
            ValueError: one of them is empty, or no token of the context fits.
        """
        if not context or not continuation:
            raise ValueError("a context and a continuation need a token each")
        if len(continuation) >= most:
            raise ValueError(
                f"a continuation of {len(continuation)} tokens and one of its context exceed the "
                f"{most} that fit; raise max_length"
            )
        kept = context[-(most - len(continuation)) :]
        return cls(kept + continuation, len(kept))


@cache
def scoring_params(start: int) -> SamplingParams:
    """What is asked of the engine: the log-probabilities from `start` on, and no new tokens."""
    return SamplingParams(
        max_tokens=0, prompt_logprobs=1, prompt_logprob_start=start, detokenize=False
    )


def score_of(output: RequestOutput, asked: Continuation) -> Score:
    """The score of a continuation from what the engine says of its tokens.

    Of equally likely tokens the one with the lowest id is greedy, as for `argmax`.

    Raises:
        InvalidRequestError: the request failed.
    """
    if output.error is not None:
        raise output.error
    assert output.prompt_logprobs is not None
    found: list[Any] = output.prompt_logprobs[asked.start :]
    tokens = asked.tokens[asked.start :]
    own = [entry[token] for token, entry in zip(tokens, found, strict=True)]
    return sum(each.logprob for each in own), all(each.rank == 1 for each in own)


def score(llm: LLM, continuations: Sequence[Continuation], use_tqdm: bool = False) -> list[Score]:
    """Scores in the order of the continuations, all planned together.

    Raises:
        InvalidRequestError: a request failed.
        ShoalError: see `LLM.generate`.
    """
    prompts = [{"prompt_token_ids": each.tokens} for each in continuations]
    params = [scoring_params(each.start) for each in continuations]
    outputs = llm.generate(prompts, params, use_tqdm=use_tqdm)
    return [score_of(*pair) for pair in zip(outputs, continuations, strict=True)]
