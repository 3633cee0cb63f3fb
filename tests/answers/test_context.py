"""Answers read as they do after their prompts, however the tokenizer decodes a beginning."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from shoal.answers.detokenize import NO_CONTEXT, REPLACEMENT, Detokenizer
from shoal.answers.stops import StopSearch
from tests.helpers.metaspace import KINDS, metaspace_tokenizer
from tests.helpers.toy_logits import byte_level, word_piece

TOKENIZERS = {kind: metaspace_tokenizer(kind) for kind in KINDS}
TOKENIZERS |= {
    "byte-level": byte_level(),
    "bytes only": byte_level(vocab_size=258),
    "wordpiece": word_piece(clean_up=False),
}
DETOKENIZERS = {name: Detokenizer(tokenizer) for name, tokenizer in TOKENIZERS.items()}


def tokens_of(name):
    """Random tokens, and tokens of words."""
    tokenizer = TOKENIZERS[name]
    words = [tokenizer(word, add_special_tokens=False).input_ids for word in ("é the", "🐟 s", "x")]
    anything = st.integers(0, len(tokenizer) - 1).map(lambda token: [token])
    parts = st.lists(st.one_of(anything, st.sampled_from(words)), min_size=1, max_size=12)
    return parts.map(lambda lists: [token for part in lists for token in part])


@pytest.mark.long
@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=150, deadline=None)
@given(data=st.data(), skip=st.booleans())
def test_prompt_and_answer_join_to_the_text_of_both(name, data, skip):
    tokenizer, detokenizer = TOKENIZERS[name], DETOKENIZERS[name]
    prompt, answer = data.draw(tokens_of(name)), data.draw(tokens_of(name))
    before = tokenizer.decode(prompt, skip_special_tokens=skip)
    both = tokenizer.decode(prompt + answer, skip_special_tokens=skip)
    if name not in ("byte-level", "bytes only"):
        assume(REPLACEMENT not in both)  # byte fallback makes a run of bytes wrong as a whole
    context = detokenizer.context(prompt, skip)
    text, taken = detokenizer.continued(answer, skip, context)
    assert before[: len(before) - taken] + text == both
    assert not before[len(before) - taken :].strip(REPLACEMENT)
    assert detokenizer.texts([answer], skip, [context]) == [text]


@pytest.mark.parametrize(
    ("kind", "prompt", "text"),
    [
        *((kind, ["▁sea", "▁swim"], " fish") for kind in KINDS),
        *((kind, ["<s>"], " fish" if kind == "gemma" else "fish") for kind in KINDS),
        *((kind, ["▁sea", "</s>", "<s>"], " fish") for kind in KINDS),
        *((kind, ["▁sea", *["<s>"] * 8], " fish") for kind in KINDS),
    ],
)
def test_the_first_space_of_an_answer(kind, prompt, text):
    detokenizer = DETOKENIZERS[kind]
    ids = TOKENIZERS[kind].convert_tokens_to_ids(prompt)
    answer = TOKENIZERS[kind].convert_tokens_to_ids(["▁fish"])
    assert detokenizer.text(answer, True, detokenizer.context(ids, True)) == text


@pytest.mark.parametrize("kind", ["llama", "bytes only"])
def test_a_character_that_the_prompt_begins_belongs_to_the_answer(kind):
    tokenizer, detokenizer = TOKENIZERS[kind], DETOKENIZERS[kind]
    first, *rest = tokenizer("é", add_special_tokens=False).input_ids[-2:]
    context = detokenizer.context([tokenizer.convert_tokens_to_ids("s"), first], True)
    assert detokenizer.continued(rest, True, context) == ("é", 1)
    assert detokenizer.continued([], True, context) == ("", 0)


@pytest.mark.parametrize("prompt", ["the fish", "fish 🐟", "é\n"])
def test_bytes_after_a_whole_character_need_no_context(prompt):
    ids = TOKENIZERS["byte-level"](prompt).input_ids
    assert DETOKENIZERS["byte-level"].context(ids, True) is NO_CONTEXT
    assert DETOKENIZERS["byte-level"].context([*ids, 0], True) is NO_CONTEXT


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop", [" fish", "fish", "sea fish"])
def test_stops_are_looked_for_in_the_answer_alone(kind, stop):
    detokenizer = DETOKENIZERS[kind]
    ids = TOKENIZERS[kind].convert_tokens_to_ids
    context = detokenizer.context(ids(["▁fish", "▁sea"]), True)
    answer, search = ids(["▁fish", "▁swim"]), StopSearch([stop], 0, True, context)
    found = []
    for count in (1, 2):
        window, before = search.window(answer[:count])
        text = detokenizer.text(window, True, before)
        found.append(search.advance(answer[:count], text, detokenizer))
    assert found[0] == {" fish": (0, 5), "fish": (1, 5), "sea fish": None}[stop]
