"""The answers of scored choices in the two shapes of the API: chat, and (older) completions.

An answer is the most probable choice. Its `logprobs` are those of a model whose vocabulary is the
choices: one token, the answer, with all choices as alternatives. What that shape has no place for
stands beside it, as `score_choices`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from shoal.answers.choice_scores import add_probabilities, best_of, scores_of
from shoal.results.logprob_records import LOWEST_LOGPROB
from shoal.types import ChoiceScore, Completion, RequestTable, ScoredChoices


def scored_answers(
    prompts: Sequence[Completion], table: RequestTable, *, chat: bool
) -> Iterator[tuple[dict[str, Any], int]]:
    """The choices of a record without their index, and how many tokens were read for each.

    Args:
        prompts: the completions of a scored line, in order, none of them an error.
        table: the requests they are of.
    """
    left = list(prompts)
    while left:
        choices = table.sampling(left[0].request_index).choices
        assert choices is not None
        of_prompt, left = left[: choices.requests], left[choices.requests :]
        scores = scores_of(choices.lengths, of_prompt)
        add_probabilities(scores, choices.normalisation)
        tokens = of_prompt[0].prompt_tokens + sum(choices.lengths)
        if of_prompt[0].prompt_logprobs is not None:
            tokens -= choices.lengths[0]  # that request's prompt ends with the first choice
        yield _answer(choices, scores, chat), tokens


def _answer(choices: ScoredChoices, scores: Sequence[ChoiceScore], chat: bool) -> dict[str, Any]:
    best = best_of(scores)
    text = choices.texts[best]
    ranked = sorted(range(len(scores)), key=lambda i: (i != best, -_probability(scores[i])))
    logprobs = [(choices.texts[i], _log(_probability(scores[i]))) for i in ranked]
    told = {
        "finish_reason": "stop",
        "score_choices": [
            {
                "choice": choice,
                "logprob": max(score.logprob, LOWEST_LOGPROB),
                "tokens": score.tokens,
                "greedy": score.greedy,
                "probability": score.probability,
            }
            for choice, score in zip(choices.texts, scores, strict=True)
        ],
    }
    if chat:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"message": message, "logprobs": _of_chat(logprobs)} | told
    return {"text": text, "logprobs": _of_completion(logprobs)} | told


def _of_chat(ranked: Sequence[tuple[str, float]]) -> dict[str, Any]:
    entries = [{"token": text, "logprob": value, "bytes": None} for text, value in ranked]
    return {"content": [entries[0] | {"top_logprobs": entries}], "refusal": None}


def _of_completion(ranked: Sequence[tuple[str, float]]) -> dict[str, Any]:
    text, value = ranked[0]
    return {
        "tokens": [text],
        "token_logprobs": [value],
        "top_logprobs": [dict(ranked)],
        "text_offset": [0],
    }


def _probability(score: ChoiceScore) -> float:
    assert score.probability is not None
    return score.probability


def _log(probability: float) -> float:
    return max(math.log(probability), LOWEST_LOGPROB) if probability else LOWEST_LOGPROB
