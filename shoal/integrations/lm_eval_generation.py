"""What `generate_until` asks for, as sampling parameters; and an answer's text, cut as asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shoal.errors import OptionError
from shoal.llm.sampling_params import SamplingParams

_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_ONE_WAY: dict[str, Any] = {"num_beams": 1, "num_return_sequences": 1, "use_cache": True}
"""Arguments of `transformers` that may be given with the one value that they have here."""


@dataclass(frozen=True)
class AskedGeneration:
    """What a request asks for.

    Attributes:
        params: how its answer is sampled.
        until: what ends its text, and is no part of it.
    """

    params: SamplingParams
    until: tuple[str, ...]


@dataclass(frozen=True)
class Thinking:
    """What a model thinks before it answers.

    Attributes:
        end: the text or the token that ends it; None: nothing is cut off.
    """

    end: str | int | None = None

    def answer(self, tokens: Sequence[int], tokenizer: Any) -> str:
        """The text of the tokens behind the thoughts."""
        ids = list(tokens)
        if isinstance(self.end, int):
            behind = ids[::-1].index(self.end) if self.end in ids else len(ids)
            ids = ids[len(ids) - behind :]
            return str(tokenizer.decode(ids, skip_special_tokens=True)).lstrip()
        text = str(tokenizer.decode(ids, skip_special_tokens=True))
        return text if self.end is None else text.split(self.end)[-1].lstrip()


def asked_for(
    arguments: Mapping[str, Any], eos: str | None, most: int, thinking: Thinking
) -> AskedGeneration:
    """What the generation arguments of a task ask for.

    Greedy unless they say `do_sample` or a temperature. Texts in thoughts end no answer.

    Args:
        eos: the text of the end of sequence.
        most: tokens of an answer whose length is not stated.

    Raises:
        OptionError: an argument that is not honoured.
        InvalidRequestError: a wrong value.
    """
    given = dict(arguments)
    until = given.pop("until", None) or []
    until = [until] if isinstance(until, str) else list(until)
    until += [eos] if eos and eos not in until else []
    lengths = [given.pop(name, None) for name in _LENGTHS]
    length = next((int(each) for each in lengths if each is not None), most)
    samples = given.pop("do_sample", None)
    temperature = float(given.pop("temperature", 0.0 if not samples else 1.0))
    for name, value in _ONE_WAY.items():
        if given.pop(name, value) != value:
            raise OptionError(f"generation argument {name} is not supported, except {value}")
    stop = [text for text in until if text and (thinking.end is None or text == eos)]
    try:
        params = SamplingParams(
            max_tokens=length,
            temperature=0.0 if samples is False else temperature,
            stop=stop,
            skip_special_tokens=False,
            **given,
        )
    except TypeError as error:
        raise OptionError(f"generation arguments: {error}") from None
    return AskedGeneration(params, tuple(until))


def answer_of(
    tokens: Sequence[int], asked: AskedGeneration, tokenizer: Any, thinking: Thinking
) -> str:
    """The text of an answer: its tokens by themselves, up to what ends it.

    Args:
        tokens: all that were generated.
    """
    text = thinking.answer(tokens, tokenizer)
    for end in filter(None, asked.until):
        text = text.split(end)[0]
    return text
