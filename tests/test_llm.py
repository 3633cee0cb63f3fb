from __future__ import annotations

import copy
import sys
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest

from shoal import LLM, SamplingParams, TokenColumns
from shoal.errors import InvalidRequestError, OptionError
from shoal.prompts import chat_template
from shoal.prompts.render import Renderer
from shoal.types import RequestCounts

PROMPTS = [[5, 6, 7, 8], [5, 6, 9], [5, 6, 7, 8], [11]]
GREEDY = SamplingParams(max_tokens=4, temperature=0, ignore_eos=True)


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(max_num_batched_tokens=64, kv_memory="8MiB")


def columns(prompts: list[list[int]]) -> TokenColumns:
    tokens = np.array([t for p in prompts for t in p], dtype=np.int32)
    tokens.flags.writeable = False  # as a mapped file's
    return TokenColumns(tokens, np.cumsum([0, *map(len, prompts)], dtype=np.int64))


def test_columns_and_arrow_answer_as_lists_do(llm: LLM) -> None:
    expected = llm.generate(PROMPTS, GREEDY, use_tqdm=False)
    assert llm.generate(columns(PROMPTS), GREEDY, use_tqdm=False) == expected
    array = pa.array(PROMPTS, pa.list_(pa.int32()))
    assert llm.generate(array, GREEDY, use_tqdm=False) == expected
    assert llm.generate(pa.chunked_array([array[:1], array[1:]]), GREEDY, use_tqdm=False) == (
        expected
    )
    assert llm.last_run is not None
    assert llm.last_run.tokens.prompt == sum(map(len, PROMPTS))


def test_parameters_per_prompt(llm: LLM) -> None:
    params = [SamplingParams(max_tokens=2, seed=i, n=1 + i % 2) for i in range(len(PROMPTS))]
    expected = llm.generate(PROMPTS, params, use_tqdm=False)
    assert llm.generate(columns(PROMPTS), params, use_tqdm=False) == expected
    with pytest.raises(OptionError, match="1 sampling parameters for 4 prompts"):
        llm.generate(columns(PROMPTS), params[:1], use_tqdm=False)


def test_no_prompts(llm: LLM) -> None:
    assert llm.generate(columns([]), GREEDY, use_tqdm=False) == []
    assert llm.generate([], GREEDY, use_tqdm=False) == []


def test_wrong_parameters_are_refused(llm: LLM) -> None:
    wrong = SamplingParams(max_tokens=1, logit_bias={10**6: 1.0})
    for prompts in (PROMPTS[:2], columns(PROMPTS[:2])):
        with pytest.raises(InvalidRequestError, match=r"^sampling_params\[1\]"):
            llm.generate(prompts, [GREEDY, wrong], use_tqdm=False)


def test_chat_takes_what_files_take(llm: LLM) -> None:
    def said(content: object, **fields: object) -> list[dict[str, object]]:
        return [{"role": "user", "content": content, **fields}]

    parts = [
        {"type": "text", "text": "Hello", "cache_control": None},
        {"type": "text", "text": "you"},
    ]
    whole, joined = llm.chat([said("Hello\nyou"), said(parts, id="m1")], GREEDY, use_tqdm=False)
    assert joined.prompt == whole.prompt
    assert joined.prompt_token_ids == whole.prompt_token_ids
    assert joined.outputs == whole.outputs
    for wrong, param in (
        (said([{"type": "image_url"}]), "messages[1][0].content[0].type"),
        (said("hi", tool_calls=[{}]), "messages[1][0].tool_calls"),
        ([], "messages[1]"),
    ):
        fine, bad = llm.chat([said("hi"), wrong], GREEDY, use_tqdm=False)
        assert fine.error is None
        assert bad.error is not None
        assert bad.error.param == param


def test_chat_proves_that_texts_arrive_in_time(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "RENDER_SECONDS", 0.2)
    tokenizer = copy.copy(llm._description.tokenizer)
    monkeypatch.setattr(llm, "_renderer", Renderer(tokenizer))
    say = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    hang = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    tokenizer.chat_template = say + "{% if 'boom' in messages[0].content %}" + hang + "{% endif %}"
    user = {"role": "user", "content": "hi"}
    for first, code in (
        ({"role": "system", "content": "Be nice"}, "chat_template_error"),
        ({"role": "user", "content": "boom"}, "chat_template_timeout"),
    ):
        fine, bad = llm.chat([[user], [first, user]], GREEDY, use_tqdm=False)
        assert fine.error is None
        assert bad.error is not None
        assert str(bad.error).startswith("messages[1]")
        assert bad.error.code == code
    assert llm.chat([[user]], GREEDY, use_tqdm=False)[0].error is None


TEXTS = ["see the fish", "swim", "the sea"]
STRINGS = pa.array(TEXTS)


class Frame:
    """A column that both iterates and offers Arrow's interface, as those of pandas 3 do."""

    def __init__(self, values: pa.Array) -> None:
        self._values = pa.chunked_array([values])

    def __iter__(self) -> Iterator[object]:
        return iter(self._values.to_pylist())

    def __arrow_c_stream__(self, schema: object = None) -> object:
        return self._values.__arrow_c_stream__(schema)


@pytest.mark.parametrize(
    ("prompts", "same"),
    [
        (STRINGS, TEXTS),
        (STRINGS.cast(pa.large_string()), TEXTS),
        (pa.chunked_array([STRINGS[:1], STRINGS[1:]]), TEXTS),
        (STRINGS.dictionary_encode(), TEXTS),
        (Frame(STRINGS), TEXTS),
        (np.array(TEXTS), TEXTS),
        (np.array(TEXTS, dtype=object), TEXTS),
        (iter(TEXTS), TEXTS),
        ([np.array(prompt) for prompt in PROMPTS], PROMPTS),
        ([[np.int64(token) for token in prompt] for prompt in PROMPTS], PROMPTS),
        (np.array([[5, 6], [7, 8]], dtype=np.uint16), [[5, 6], [7, 8]]),
        (pa.array(PROMPTS, pa.list_(pa.int64())), PROMPTS),
        (Frame(pa.array(PROMPTS, pa.list_(pa.int32()))), PROMPTS),
    ],
)
def test_prompts_of_many_kinds(llm: LLM, prompts: object, same: list) -> None:
    assert llm.generate(prompts, GREEDY, use_tqdm=False) == llm.generate(
        same, GREEDY, use_tqdm=False
    )


def test_an_arrow_column_without_pyarrow(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = llm.generate(TEXTS, GREEDY, use_tqdm=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert llm.generate(Frame(STRINGS), GREEDY, use_tqdm=False) == expected


LONG = [5] * 10**5


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        ("", "invalid_value"),
        ([], "invalid_value"),
        (None, "invalid_value"),
        (float("nan"), "invalid_value"),
        ([5, 10**6], "invalid_value"),
        ([5, 10**12], "invalid_value"),
        ([-1], "invalid_value"),
        (LONG, "context_length_exceeded"),
        ("fish " * 10**5, "context_length_exceeded"),
    ],
)
def test_a_bad_prompt_fails_alone(llm: LLM, bad: object, code: str) -> None:
    first, last = llm.generate(["fish", "sea"], GREEDY, use_tqdm=False)
    done = llm.generate(["fish", bad, "sea"], [GREEDY] * 3, use_tqdm=False)
    assert [output.outputs for output in done] == [first.outputs, [], last.outputs]
    assert [output.prompt for output in done[::2]] == ["fish", "sea"]
    error = done[1].error
    assert error is not None
    assert (error.code, error.param) == (code, "prompts[1]")
    assert llm.last_run is not None
    assert llm.last_run.requests == RequestCounts(3, 2, 1)


@pytest.mark.parametrize(
    "prompts",
    [
        columns([[5], [5, 10**6], [7]]),
        columns([[5], LONG, [7]]),
        pa.array([[5], None, [7]], pa.list_(pa.int32())),
        pa.array([[5], [], [7]], pa.list_(pa.int32())),
        pa.array(["a", None, "b"]),
    ],
    ids=["vocabulary", "long", "null", "empty", "null text"],
)
def test_a_bad_row_fails_alone(llm: LLM, prompts: object) -> None:
    done = llm.generate(prompts, GREEDY, use_tqdm=False)
    assert [output.error is None for output in done] == [True, False, True]
    assert done[1].error is not None
    assert done[1].error.param == "prompts[1]"


def test_a_conversation_that_the_template_refuses_fails_alone(llm: LLM) -> None:
    fine = [{"role": "user", "content": "fish"}]
    done = llm.chat([fine, [{"role": "user"}], fine], GREEDY, use_tqdm=False)
    assert [output.error is None for output in done] == [True, False, True]
    assert done[1].error is not None
    assert done[1].error.param == "messages[1][0].content"
    assert done[0].outputs == done[2].outputs


def test_nothing_but_bad_prompts(llm: LLM) -> None:
    assert [c.error is None for c in llm.generate(["", []], GREEDY, use_tqdm=False)] == [False] * 2


@pytest.mark.parametrize(
    "prompts",
    [b"fish", 5, [b"fish"], [5.0], [[5.0]], {"a": 1},
     [{"prompt": "a", "multi_modal_data": {"image": 1}}], [["a"]], [{"a": 1}],
     [[[5]]], [[[5], [6, 7]]], pa.array([1.5]), pa.array([[1.5]])],
)  # fmt: skip
def test_what_is_no_prompt_is_refused(llm: LLM, prompts: object) -> None:
    with pytest.raises(OptionError):
        llm.generate(prompts, GREEDY, use_tqdm=False)
