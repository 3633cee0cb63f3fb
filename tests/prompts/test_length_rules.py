from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import InvalidRequestError
from shoal.prompts.length_rules import LengthRules
from shoal.types import RequestParams


def code(rules: LengthRules, prompt: int, limit: int | None) -> str:
    with pytest.raises(InvalidRequestError) as caught:
        rules.output_length(prompt, RequestParams(max_tokens=limit), "body.prompt")
    assert caught.value.param == "body.prompt"
    return caught.value.code


def test_stated_limits() -> None:
    rules = LengthRules(max_model_len=100, capacity_tokens=1000)
    assert rules.output_length(60, RequestParams(max_tokens=40)).limit == 40
    assert rules.output_length(60, RequestParams(max_tokens=40)).expected == 40
    assert rules.output_length(60, RequestParams(max_completion_tokens=3)).limit == 3
    assert code(rules, 60, 41) == "context_length_exceeded"


def test_unstated_limit_is_all_that_fits_and_expected_less() -> None:
    roomy = LengthRules(max_model_len=1000, capacity_tokens=2000)
    length = roomy.output_length(100, RequestParams())
    assert (length.limit, length.expected) == (900, 256)
    length = roomy.output_length(990, RequestParams())
    assert (length.limit, length.expected) == (10, 10)
    assert code(roomy, 1000, None) == "context_length_exceeded"
    tight = LengthRules(max_model_len=1000, capacity_tokens=120)
    assert tight.output_length(100, RequestParams()).limit == 21
    assert tight.output_length(120, RequestParams()).limit == 1
    assert code(tight, 121, None) == "kv_memory_exceeded"


def test_the_last_token_needs_no_kv() -> None:
    rules = LengthRules(max_model_len=1000, capacity_tokens=50)
    assert rules.output_length(40, RequestParams(max_tokens=11)).limit == 11
    with pytest.raises(InvalidRequestError, match=r"51 tokens of KV.*--kv-memory"):
        rules.output_length(40, RequestParams(max_tokens=12))


def test_echo_of_a_prompt_that_fills_the_model() -> None:
    rules = LengthRules(max_model_len=10, capacity_tokens=10)
    assert rules.output_length(10, RequestParams(max_tokens=0, echo=True)).limit == 1


def test_a_last_token_that_is_only_scored_does_not_count() -> None:
    rules = LengthRules(max_model_len=10, capacity_tokens=10)
    scored = RequestParams(max_tokens=0, prompt_logprobs=1)
    assert rules.output_length(11, scored).limit == 1
    assert code(rules, 12, 0) == "context_length_exceeded"
    assert code(rules, 10, 1) == "context_length_exceeded"
    with pytest.raises(InvalidRequestError, match="at most 10"):
        rules.output_length(11, RequestParams(pooled=True))


@given(*[st.integers(1, 60)] * 3, st.none() | st.integers(1, 60))
def test_whatever_is_accepted_fits(
    model: int, capacity: int, prompt: int, limit: int | None
) -> None:
    rules = LengthRules(model, capacity)
    fits = prompt + (limit or 1) <= model and prompt + (limit or 1) - 1 <= capacity
    try:
        length = rules.output_length(prompt, RequestParams(max_tokens=limit))
    except InvalidRequestError:
        assert not fits
    else:
        assert fits
        assert 1 <= length.expected <= length.limit
        assert prompt + length.limit <= model
        assert prompt + length.limit - 1 <= capacity
        assert limit in (None, length.limit)
