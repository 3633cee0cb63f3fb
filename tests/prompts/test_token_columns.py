from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import InvalidRequestError, OptionError
from shoal.prompts import token_columns as module
from shoal.prompts.length_rules import LengthRules
from shoal.prompts.token_columns import TokenColumns
from shoal.types import RequestParams

PROMPTS = [[1, 2, 3], [4], [5, 6]]
RULES = LengthRules(max_model_len=10, capacity_tokens=100)


def make(prompts: list[list[int]]) -> TokenColumns:
    return TokenColumns(
        np.array([t for p in prompts for t in p], dtype=np.int32),
        np.cumsum([0, *map(len, prompts)], dtype=np.int64),
    )


def lists(columns: TokenColumns) -> list[list[int]]:
    return [p.tolist() for p in np.split(columns.tokens, columns.offsets[1:-1])]


@pytest.mark.parametrize("kind", [pa.list_(pa.int32()), pa.large_list(pa.int32())])
def test_an_arrow_array_is_viewed_in_place(kind: pa.DataType) -> None:
    array = pa.array([[9, 9], *PROMPTS, [7]], type=kind)
    found = TokenColumns.from_arrow(array.slice(1, 3))
    assert lists(found) == PROMPTS
    assert np.shares_memory(found.tokens, array.values.to_numpy())


def test_several_chunks_are_joined() -> None:
    kind = pa.list_(pa.int32())
    column = pa.chunked_array([pa.array(PROMPTS[:1], kind), pa.array([], kind), PROMPTS[1:]], kind)
    assert lists(TokenColumns.from_arrow(column)) == PROMPTS
    assert len(TokenColumns.from_arrow(pa.chunked_array([], kind))) == 0


@pytest.mark.parametrize(
    ("prompts", "row", "what"),
    [
        ([[1], None], 1, "is null"),
        ([[1], [2, None], [None]], 1, "null at position 1"),
        ([[1], [2], []], 2, "is empty"),
    ],
)
def test_a_wrong_row_is_named(prompts: list[list[int] | None], row: int, what: str) -> None:
    kind = pa.list_(pa.int32())
    column = pa.chunked_array([pa.array([[0]], kind), pa.array(prompts, kind)])
    with pytest.raises(InvalidRequestError, match=what) as caught:
        TokenColumns.from_arrow(column)
    assert caught.value.param == f"prompts[{row + 1}]"


@pytest.mark.parametrize("values", [["a"], [[1.5]], [["a"]], [1]])
def test_other_types_are_refused(values: list[object]) -> None:
    with pytest.raises(OptionError, match="list<int32>"):
        TokenColumns.from_arrow(pa.array(values))
    with pytest.raises(OptionError, match="int64"):
        TokenColumns.from_arrow(pa.array(PROMPTS))


def test_arrays_must_fit_together() -> None:
    tokens, offsets = make(PROMPTS).tokens, make(PROMPTS).offsets
    for wrong in (offsets[:-1], offsets + 1, offsets[:0], np.array([0, 9, 6])):
        with pytest.raises((OptionError, InvalidRequestError), match=r"offsets|ends too early"):
            TokenColumns(tokens, wrong)
    with pytest.raises(OptionError, match=r"tokens must be .* int32"):
        TokenColumns(tokens.astype(np.int64), offsets)
    with pytest.raises(OptionError, match="one-dimensional"):
        TokenColumns(tokens.reshape(2, 3), offsets)


@pytest.mark.parametrize("chunk", [1, 4, 1 << 20])
@pytest.mark.parametrize(("bad", "row", "at"), [(-1, 1, 0), (50, 2, 1)])
def test_ids_beyond_the_vocabulary(
    monkeypatch: pytest.MonkeyPatch, chunk: int, bad: int, row: int, at: int
) -> None:
    monkeypatch.setattr(module, "_CHUNK_TOKENS", chunk)
    prompts = [list(p) for p in PROMPTS]
    make(prompts).check_vocabulary(50)
    prompts[row][at] = bad
    with pytest.raises(InvalidRequestError, match=f"token id {bad} at position {at}") as caught:
        make(prompts).check_vocabulary(50)
    assert caught.value.param == f"prompts[{row}]"


def test_one_set_of_parameters_for_all() -> None:
    table = make(PROMPTS).table([RequestParams(max_tokens=4, n=2, seed=7)], RULES, job_seed=3)
    assert (len(table), table.job_seed) == (3, 3)
    assert table.max_new_tokens.tolist() == table.expected_new_tokens.tolist() == [4, 4, 4]
    assert table.choices.tolist() == [2, 2, 2]
    assert table.seeds.tolist() == [7, 7, 7]
    assert table.has_seed.all()
    assert table.prompt(2).tolist() == PROMPTS[2]


params = st.builds(
    RequestParams,
    max_tokens=st.sampled_from([None, 1, 3]),
    temperature=st.sampled_from([0.0, 1.0]),
    seed=st.sampled_from([None, 0, 5]),
)


@given(st.lists(st.tuples(st.integers(1, 7), params), min_size=1, max_size=8))
def test_parameters_per_prompt(rows: list[tuple[int, RequestParams]]) -> None:
    wanted = [p for _, p in rows]
    table = make([[1] * n for n, _ in rows]).table(wanted, RULES, job_seed=0)
    seedless = [p.model_copy(update={"seed": None}) for p in wanted]
    assert [table.sampling(i) for i in range(len(rows))] == seedless
    assert len(table.params) == len(set(seedless))
    assert table.seeds.tolist() == [p.seed or 0 for p in wanted]
    assert table.has_seed.tolist() == [p.seed is not None for p in wanted]
    for i, (length, p) in enumerate(rows):
        output = RULES.output_length(length, p)
        assert (table.max_new_tokens[i], table.expected_new_tokens[i]) == (
            output.limit,
            output.expected,
        )


def test_the_first_prompt_that_is_too_long_is_named() -> None:
    with pytest.raises(InvalidRequestError, match="at most 10") as caught:
        make([[1], [1] * 8, [1] * 9]).table([RequestParams(max_tokens=3)], RULES, job_seed=0)
    assert caught.value.param == "prompts[1]"
