"""Contexts with choices as tokens: the context keeps its own, the choice has the rest."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoTokenizer, ByT5Tokenizer

from shoal.errors import InvalidRequestError
from shoal.model.description import bundled_model_path
from shoal.prompts.choices import ChoiceTokenizer, ContextTokens, ContextToScore
from shoal.prompts.render import Renderer
from tests.helpers.metaspace import KINDS, metaspace_tokenizer

CONTEXTS = ["see the fish", "the sea; ", "naïve fishes swi", "fish\n", "see  \t"]
CHOICES = [" swim", "ms, see the sea", "the sea", "\n", "ü"]


def split(tokenizer: Any, context: Any, choices: list[Any], templated: bool = False) -> Any:
    asked = ContextToScore(context, choices, templated, "contexts[0]", "choices")
    return ChoiceTokenizer(Renderer(tokenizer)).tokenize([asked])[0]


def bundled() -> Any:
    return AutoTokenizer.from_pretrained(bundled_model_path())


TOKENIZERS = [bundled, *(lambda kind=kind: metaspace_tokenizer(kind) for kind in KINDS)]


@pytest.mark.parametrize("make", TOKENIZERS)
@pytest.mark.parametrize("context", CONTEXTS)
def test_a_choice_is_what_the_whole_has_behind_the_context(make: Any, context: str) -> None:
    tokenizer = make()
    found = split(tokenizer, context, CHOICES)
    begin = tokenizer(context.rstrip())["input_ids"]
    whole = [tokenizer(context + choice)["input_ids"] for choice in CHOICES]
    assert isinstance(found, ContextTokens)
    assert list(found.context) == begin
    assert [list(ids) for ids in found.choices] == [ids[len(begin) :] for ids in whole]
    # Where no token spans the boundary, context and choice together are the whole text.
    for ids, choice in zip(whole, found.choices, strict=True):
        if ids[: len(begin)] == begin:
            assert [*found.context, *choice] == ids


def test_the_end_that_a_tokenizer_writes_is_not_scored() -> None:
    tokenizer = ByT5Tokenizer()
    assert tokenizer("ab")["input_ids"][-1] == tokenizer.eos_token_id
    found = split(tokenizer, "ab", ["c", "de"])
    bare = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("ab", "c", "de")]
    assert [list(found.context), *map(list, found.choices)] == bare


@pytest.mark.parametrize("kind", ["llama", "metaspace-always"])
def test_a_template_writes_special_tokens_and_white_space_itself(kind: str) -> None:
    tokenizer = metaspace_tokenizer(kind)
    found = split(tokenizer, "<s>see \n", ["fish"], templated=True)
    begin = tokenizer("<s>see \n", add_special_tokens=False)["input_ids"]
    whole = tokenizer("<s>see \nfish", add_special_tokens=False)["input_ids"]
    assert list(found.context) == begin
    assert list(found.choices[0]) == whole[len(begin) :]


def test_token_ids_stay_and_texts_behind_them_are_tokenised_alone() -> None:
    tokenizer = bundled()
    found = split(tokenizer, [5, 6], [" fish", [7, 8], "see"])
    alone = [tokenizer.encode(text, add_special_tokens=False) for text in (" fish", "see")]
    assert list(found.context) == [5, 6]
    assert [list(choice) for choice in found.choices] == [alone[0], [7, 8], alone[1]]


@pytest.mark.parametrize(
    ("context", "choices", "message"),
    [
        ("", ["a"], r"contexts\[0\] is empty"),
        (" \n", ["a"], r"contexts\[0\] is empty"),
        ("a", ["b", ""], r"choices\[1\] is empty"),
        ("a", ["b", []], r"choices\[1\] is empty"),
    ],
)
def test_what_is_empty_is_named(context: str, choices: list[Any], message: str) -> None:
    found = split(bundled(), context, choices)
    assert isinstance(found, InvalidRequestError)
    with pytest.raises(InvalidRequestError, match=message):
        raise found


def test_a_choice_that_the_context_swallows_is_named() -> None:
    """One token is "refund", several are "refun": nothing is left for "d"."""
    found = split(bundled(), "refun", ["d", "ds"])
    assert isinstance(found, InvalidRequestError)
    assert str(found) == "choices[0] adds no token of its own to the context."
