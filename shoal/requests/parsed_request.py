"""A checked line of a batch file."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.prompts.prompts import Prompt
from shoal.requests.scored_choices import AskedChoices
from shoal.types import BASE_MODEL, RequestParams


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A line that may run, apart from its length, which is known once it is tokenised.

    Attributes:
        prompts: a chat, or the prompts of a completions line, at least one.
        params_key: equal for requests whose `params` are equal.
        params: sampling parameters without the seed, so that requests alike share them.
        seed: the request's own seed, or None.
        special_tokens: whether the tokenizer adds its own to texts.
        places: the field that each prompt comes from.
        choices: what is scored instead of generating an answer.
        adapter: number of the one it runs with; `BASE_MODEL`: none.
    """

    custom_id: str
    url: str
    prompts: tuple[Prompt, ...]
    params_key: bytes
    params: RequestParams
    seed: int | None
    special_tokens: bool
    places: tuple[str, ...]
    choices: AskedChoices | None = None
    adapter: int = BASE_MODEL
