"""Where tokens stand in a text, for every kind of tokenizer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from shoal.results.logprob_records import completion_logprobs
from shoal.types import Choice, TokenLogprob
from tests.answers.test_context import DETOKENIZERS, TOKENIZERS, tokens_of
from tests.helpers.request_tables import one, table


@pytest.mark.long
@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=100, deadline=None)
@given(data=st.data(), skip=st.booleans(), echo=st.booleans())
def test_offsets_are_lengths_of_what_was_decoded_before(name, data, skip, echo):
    prompt, answer = data.draw(tokens_of(name)), data.draw(tokens_of(name))
    both = prompt + answer
    texts = [
        TOKENIZERS[name].decode(both[:count], skip_special_tokens=skip)
        for count in range(len(both) + 1)
    ]
    assume("\ufffd" not in texts[-1])
    # While the last character of a run of bytes is incomplete, byte fallback shows none of the run.
    lengths = np.maximum.accumulate([len(text.rstrip("\ufffd")) for text in texts])
    first = 0 if echo else len(prompt)
    ids, expected = both[first:], lengths[first:-1] - lengths[first]
    requests = table([one(prompt, skip_special_tokens=skip, echo=echo)])
    choice = Choice(0, texts[-1][lengths[first] :], tuple(answer), "length")
    tokens = [TokenLogprob(token, -1.0) for token in ids]
    written = completion_logprobs(tokens, choice, 0, requests, DETOKENIZERS[name])
    assert written["text_offset"] == expected.tolist()
