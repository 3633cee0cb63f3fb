from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import InternalError
from shoal.sampling.history import TokenHistory

TOKENS = st.lists(st.integers(0, 30), max_size=60)


def seen(history, position):
    ids, counts = history.at(position)
    assert len(set(ids.tolist())) == len(ids)
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))


def expected(prompt, outputs):
    return {token: float(Counter(outputs)[token]) for token in {*prompt, *outputs}}


@given(TOKENS, TOKENS, st.data())
def test_counts_are_those_of_the_output_before_the_position(prompt, outputs, data):
    history = TokenHistory(np.array(prompt, dtype=np.int32))
    for position, token in enumerate(outputs):
        history.record(position, token)
    for position in data.draw(st.lists(st.integers(0, len(outputs)), max_size=6)):
        assert seen(history, position) == expected(prompt, outputs[:position])


def test_recording_again_replaces_what_followed():
    history = TokenHistory(np.array([], dtype=np.int32))
    for position, token in enumerate([4, 4, 5, 6]):
        history.record(position, token)
    assert seen(history, 4) == {4: 2.0, 5: 1.0, 6: 1.0}
    history.record(1, 9)
    assert seen(history, 2) == {4: 1.0, 9: 1.0}
    with pytest.raises(InternalError, match="position 3"):
        history.at(3)
