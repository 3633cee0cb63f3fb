"""A context and the choices that may follow it, as token ids.

The context keeps the tokens that it has alone. A choice's are those of the whole text behind as
many tokens as the context has, which is how lm-evaluation-harness splits them. White space at the
end of a context belongs to the choices, because tokenizers join it with the word behind it; only
what a chat template wrote stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from shoal.errors import InvalidRequestError
from shoal.prompts.refusals import empty_prompt, wrong_value
from shoal.prompts.render import Renderer, TokenIds

Choice = str | Sequence[int]
"""What may follow a context: a text, or token ids."""


@dataclass(frozen=True, slots=True)
class ContextToScore:
    """A context before it is tokenised.

    Attributes:
        context: a text, or token ids.
        choices: what may follow; texts behind a context of token ids are tokenised alone.
        templated: whether a chat template wrote the text, with its special tokens.
        context_name, choices_name: what errors call them.
    """

    context: str | Sequence[int]
    choices: Sequence[Choice]
    templated: bool
    context_name: str
    choices_name: str


@dataclass(frozen=True, slots=True)
class ContextTokens:
    """The ids of a context, at least one, and of each of its choices, at least one each."""

    context: TokenIds
    choices: tuple[TokenIds, ...]


class ChoiceTokenizer:
    """Tokenises contexts with their choices; for one thread at a time, as the renderer is."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self._before: list[int] | None = None

    def tokenize(
        self, contexts: Sequence[ContextToScore]
    ) -> list[ContextTokens | InvalidRequestError]:
        """The tokens of each, or what is wrong with it: a text, or a choice without a token."""
        texts = [list(_texts(each)) for each in contexts]
        flat = [text for some in texts for text in some]
        encoded = iter(self._renderer.tokenize(flat, add_special_tokens=False))
        found: list[ContextTokens | InvalidRequestError] = []
        for each, some in zip(contexts, texts, strict=True):
            ids = [next(encoded) for _ in some]
            try:
                found.append(self._split(each, ids))
            except InvalidRequestError as error:
                found.append(error)
        return found

    def _split(
        self, asked: ContextToScore, encoded: Sequence[TokenIds | InvalidRequestError]
    ) -> ContextTokens:
        """From the ids of `_texts`."""
        ids = iter(map(_sound, encoded))
        whole = isinstance(asked.context, str)
        context = next(ids) if isinstance(asked.context, str) else asked.context
        skipped = len(context) if whole else 0
        choices = []
        for number, choice in enumerate(asked.choices):
            own = next(ids)[skipped:] if isinstance(choice, str) else choice
            if not len(own):
                why = "adds no token of its own to the context" if choice else "is empty"
                raise wrong_value(f"{asked.choices_name}[{number}]", why)
            choices.append(own)
        if whole and not asked.templated:
            context = [*self._special_before(), *context]
        if not len(context):
            raise empty_prompt(asked.context_name)
        return ContextTokens(context, tuple(choices))

    def _special_before(self) -> list[int]:
        """The special tokens that the tokenizer puts before a text."""
        if self._before is None:
            (bare,) = map(_sound, self._renderer.tokenize(["a"], add_special_tokens=False))
            (full,) = map(_sound, self._renderer.tokenize(["a"], add_special_tokens=True))
            ids, begin = list(full), list(bare)
            starts = range(len(ids) - len(begin) + 1)
            at = next((i for i in starts if ids[i : i + len(begin)] == begin), 0)
            self._before = ids[:at]
        return self._before


def _texts(asked: ContextToScore) -> Iterator[str]:
    """The context, if it is text, then its choices that are texts, each behind the context."""
    context = asked.context
    if not isinstance(context, str):
        yield from (choice for choice in asked.choices if isinstance(choice, str))
        return
    kept = context if asked.templated else context.rstrip()
    yield kept
    yield from (context + choice for choice in asked.choices if isinstance(choice, str))


def _sound(ids: TokenIds | InvalidRequestError) -> TokenIds:
    if isinstance(ids, InvalidRequestError):
        raise ids
    return ids
