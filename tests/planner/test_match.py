from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.planner import match

groups = st.lists(
    st.tuples(st.lists(st.integers(0, 59), min_size=1, max_size=9), st.sampled_from([4, 16])),
    min_size=1,
    max_size=5,
)


@pytest.fixture(scope="module", params=[32, 1 << 20], ids=["chunked", "whole"])
def _chunk_tokens(request: pytest.FixtureRequest) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(match, "_CHUNK_TOKENS", request.param)
        yield


@pytest.mark.long
@pytest.mark.usefixtures("_chunk_tokens")
@settings(deadline=None)
@given(st.lists(st.sampled_from([1, 1, 1, 1, 2]), min_size=60, max_size=60), groups)
def test_common_length(tokens: list[int], groups: list[tuple[list[int], int]]) -> None:
    common = match.common_length(
        np.array(tokens, dtype=np.int32),
        start=np.array([s for starts, _ in groups for s in starts]),
        size=np.array([len(starts) for starts, _ in groups]),
        width=np.array([width for _, width in groups]),
    )
    for (starts, width), found in zip(groups, common, strict=True):
        if len(starts) == 1:
            assert found > 10**15
            continue
        inside = min(60 - max(starts), width)  # beyond the end anything may match
        agree = [len({tokens[s + k] for s in starts}) == 1 for k in range(inside)]
        expected = agree.index(False) if False in agree else inside
        assert min(found, inside) == expected
        assert found <= width
