"""`LLM.score_choices`: how likely each of several choices is after a context."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from shoal.answers.choice_scores import (
    add_probabilities,
    best_of,
    requests_of,
    scores_of,
)
from shoal.errors import GenerationInterrupted, InvalidRequestError, OptionError, ShoalError
from shoal.llm.drive import MakeOutput
from shoal.llm.request_output import ScoredContext
from shoal.prompts.choices import Choice, ChoiceTokenizer, ContextTokens, ContextToScore
from shoal.prompts.length_rules import LengthRules
from shoal.prompts.python_prompts import CheckedPrompt, checked_prompt, prompts_of
from shoal.prompts.refusals import outside_vocabulary
from shoal.prompts.render import TokenIds
from shoal.prompts.token_columns import TokenColumns
from shoal.types import Completion, Normalisation, RequestParams

Render = Callable[[Any, str], CheckedPrompt]
"""A conversation, and what errors call it, to the text that the model reads."""


@dataclass
class ChoiceRequests:
    """The requests that score the contexts of a call.

    Attributes:
        contexts: the tokens of each context, or what is wrong with it.
        prompts, params: of the requests, those of a context next to each other.
    """

    contexts: list[ContextTokens | InvalidRequestError]
    normalisation: Normalisation | None
    prompts: list[TokenIds] = field(default_factory=list)
    params: list[RequestParams] = field(default_factory=list)
    _counts: list[int] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        contexts: Sequence[ContextTokens | InvalidRequestError],
        normalisation: Normalisation | None,
        rules: LengthRules,
        vocab_size: int,
    ) -> ChoiceRequests:
        """The requests of tokenised contexts; one that is too long is found to be wrong."""
        found = cls(list(contexts), normalisation)
        shared: dict[RequestParams, RequestParams] = {}
        for index, tokens in enumerate(found.contexts):
            requests: list[tuple[TokenIds, RequestParams]] = []
            try:
                if isinstance(tokens, ContextTokens):
                    requests = requests_of(tokens)
                    _check(requests, f"contexts[{index}]", rules, vocab_size)
            except InvalidRequestError as error:
                found.contexts[index], requests = error, []
            found.prompts += [prompt for prompt, _ in requests]
            found.params += [shared.setdefault(params, params) for _, params in requests]
            found._counts.append(len(requests))
        return found

    def run(self, run: Callable[[MakeOutput[Completion]], list[Completion]]) -> list[ScoredContext]:
        """The scores that a run of the requests gives; what ends it carries those that are done."""
        try:
            completions = run(lambda index, tokens, completion: completion)
        except (ShoalError, GenerationInterrupted) as error:
            if error.outputs:
                error.outputs = self.scored(error.outputs)
            raise
        return [scored for scored in self.scored(completions) if scored is not None]

    def scored(self, completions: Sequence[Completion | None]) -> list[ScoredContext | None]:
        """Of each context; None where its requests are not all done."""
        left = iter(completions)
        return [
            self._scored(tokens, list(islice(left, count)))
            for tokens, count in zip(self.contexts, self._counts, strict=True)
        ]

    def _scored(
        self, tokens: ContextTokens | InvalidRequestError, parts: Sequence[Completion | None]
    ) -> ScoredContext | None:
        if isinstance(tokens, InvalidRequestError):
            return ScoredContext([], error=tokens)
        done = [part for part in parts if part is not None]
        error = next((part.error for part in done if part.error is not None), None)
        if error is not None:
            return ScoredContext([], error=error)
        if len(done) < len(parts):
            return None
        scores = scores_of([len(choice) for choice in tokens.choices], done)
        if self.normalisation is not None:
            add_probabilities(scores, self.normalisation)
        return ScoredContext(scores, best_of(scores))


def _check(
    requests: Sequence[tuple[TokenIds, RequestParams]],
    where: str,
    rules: LengthRules,
    vocab_size: int,
) -> None:
    for prompt, params in requests:
        rules.output_length(len(prompt), params, where)
        if min(prompt) < 0 or max(prompt) >= vocab_size:
            at = next(i for i, token in enumerate(prompt) if not 0 <= token < vocab_size)
            raise outside_vocabulary(where, prompt[at], at, vocab_size)
        if (named := params.logprob_token_ids) and max(named) >= vocab_size:
            raise outside_vocabulary(where, max(named), len(prompt), vocab_size)


def normalisation_of(probabilities: str | None) -> Normalisation | None:
    """What `probabilities` asks for.

    Raises:
        OptionError: it is none of the words there are.
    """
    if probabilities is None or probabilities in list(Normalisation):
        return None if probabilities is None else Normalisation(probabilities)
    raise OptionError(
        f'probabilities={probabilities!r} is unknown; give "sum" (a softmax of the logprobs) or '
        '"mean" (of the logprobs per token).'
    )


def tokenized(
    contexts: Any, choices: Any, tokenizer: ChoiceTokenizer, render: Render
) -> list[ContextTokens | InvalidRequestError]:
    """The contexts and choices of a call as tokens.

    Raises:
        OptionError: something is neither text, token ids nor a conversation, or there are not as
            many lists of choices as contexts.
    """
    given = _contexts(contexts)
    several = _choices(choices, len(given))
    found: list[ContextTokens | InvalidRequestError | None] = []
    asked = []
    for index, (context, some) in enumerate(zip(given, several, strict=True)):
        name, templated = f"contexts[{index}]", _is_conversation(context)
        text = render(context, name) if templated else checked_prompt(context, name)
        if isinstance(text, InvalidRequestError):
            found.append(text)
            continue
        choices_name = "choices" if several[0] is several[-1] else f"choices[{index}]"
        found.append(None)
        asked.append(ContextToScore(text, some, templated, name, choices_name))
    tokens = iter(tokenizer.tokenize(asked))
    return [next(tokens) if entry is None else entry for entry in found]


def _contexts(contexts: Any) -> list[Any]:
    """One or several, as a list."""
    if _is_conversation(contexts):
        return [contexts]
    values = prompts_of(contexts)
    if isinstance(values, TokenColumns):
        return list(np.split(values.tokens, values.offsets[1:-1]))
    return values


def _is_conversation(value: Any) -> bool:
    """Whether it is a list of messages."""
    return isinstance(value, list | tuple) and any(
        isinstance(message, Mapping) and "role" in message for message in value
    )


def _choices(choices: Any, count: int) -> list[list[Choice]]:
    """Those of each context: the same list for all, or one for each."""
    given = _listed(choices, "choices")
    if any(isinstance(choice, str) or _is_ids(choice) for choice in given):
        return [_checked(given, "choices")] * count
    if len(given) != count:
        raise OptionError(f"{len(given)} lists of choices for {count} contexts")
    named = [(f"choices[{i}]", some) for i, some in enumerate(given)]
    return [_checked(_listed(some, name), name) for name, some in named]


def _listed(choices: Any, name: str) -> list[Any]:
    if isinstance(choices, str | bytes | Mapping) or not isinstance(choices, Iterable):
        raise OptionError(f"{name} must be a list of texts or of token ids, not {choices!r:.80}.")
    given = list(choices)
    if not given:
        raise OptionError(f"{name} must hold at least one choice.")
    return given


def _checked(choices: Sequence[Any], name: str) -> list[Choice]:
    found: list[Choice] = []
    for number, choice in enumerate(choices):
        if isinstance(choice, str):
            found.append(choice)
        elif _is_ids(choice):
            found.append(np.asarray(choice).tolist())
        else:
            raise OptionError(f"{name}[{number}] must be text or token ids, not {choice!r:.80}.")
    return found


def _is_ids(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim == 1 and value.dtype.kind in "iu"
    if not isinstance(value, list | tuple) or not value:
        return False
    return all(isinstance(token, int | np.integer) for token in value)
