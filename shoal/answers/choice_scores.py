"""How likely each of several choices is after a context: the requests that tell, and the scores.

Where every choice is one token, one request tells them all: it generates a token, and lists the
logprobs of the choices. Otherwise each choice is a request of its own, whose prompt ends with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from shoal.errors import InternalError
from shoal.prompts.choices import ContextTokens
from shoal.prompts.render import TokenIds
from shoal.types import (
    MAX_LOGPROB_TOKEN_IDS,
    ChoiceScore,
    Completion,
    Normalisation,
    RequestParams,
    ScoredChoices,
)


def requests_of(
    tokens: ContextTokens, texts: Sequence[str] = (), how: Normalisation = Normalisation.sum
) -> list[tuple[TokenIds, RequestParams]]:
    """Prompt and parameters of each request that scoring takes; `scores_of` reads what they give.

    Args:
        texts: of the choices; with `how` for the `choices` of the parameters.
    """
    lengths = tuple(len(choice) for choice in tokens.choices)
    if len(lengths) <= MAX_LOGPROB_TOKEN_IDS and max(lengths) == 1:
        params = RequestParams(
            temperature=0.0,
            max_tokens=1,
            ignore_eos=True,
            logprob_token_ids=tuple(choice[0] for choice in tokens.choices),
            choices=ScoredChoices(tuple(texts), lengths, 1, how),
        )
        return [(tokens.context, params)]
    params = RequestParams(
        temperature=0.0,
        max_tokens=0,
        prompt_logprobs=1,
        prompt_logprob_start=len(tokens.context),
        choices=ScoredChoices(tuple(texts), lengths, len(lengths), how),
    )
    return [([*tokens.context, *choice], params) for choice in tokens.choices]


def scores_of(lengths: Sequence[int], completions: Sequence[Completion]) -> list[ChoiceScore]:
    """The score of each choice, without probabilities.

    Args:
        lengths: how many tokens each choice has.
        completions: of the requests of `requests_of`, in order, none of them an error.
    """
    if completions[0].prompt_logprobs is None:
        (entry,) = completions[0].choices[0].logprobs or ()
        return [ChoiceScore(logprob, 1, token == entry.token_id) for token, logprob in entry.named]
    return [
        _from_prompt(length, completion)
        for length, completion in zip(lengths, completions, strict=True)
    ]


def add_probabilities(scores: Sequence[ChoiceScore], normalisation: Normalisation) -> None:
    """Set the probability of each choice: a softmax over them all."""
    by_token = normalisation is Normalisation.mean
    values = [score.logprob / score.tokens if by_token else score.logprob for score in scores]
    highest = max(values)
    if highest == -math.inf:  # a model that excludes them all says nothing of their shares
        weights = [1.0] * len(values)
    else:
        weights = [math.exp(value - highest) for value in values]
    total = math.fsum(weights)
    for score, weight in zip(scores, weights, strict=True):
        score.probability = weight / total


def best_of(scores: Sequence[ChoiceScore]) -> int:
    """Which choice is the most probable, of equals the first; the likeliest without
    probabilities."""
    values = [score.logprob if score.probability is None else score.probability for score in scores]
    return values.index(max(values))


def _from_prompt(length: int, completion: Completion) -> ChoiceScore:
    """Of the last tokens of a prompt."""
    entries = (completion.prompt_logprobs or ())[-length:]
    logprobs = [entry.logprob for entry in entries if entry.logprob is not None]
    if len(logprobs) != length:
        raise InternalError(f"{len(logprobs)} of a choice's {length} tokens were scored")
    greedy = all(entry.top[0][0] == entry.token_id for entry in entries)
    return ChoiceScore(math.fsum(logprobs), length, greedy)
