from __future__ import annotations

import copy

import numpy as np
import pyarrow as pa
import pytest

from shoal import LLM, SamplingParams, TokenColumns
from shoal.errors import InvalidRequestError, OptionError
from shoal.prompts import chat_template
from shoal.prompts.render import Renderer

PROMPTS = [[5, 6, 7, 8], [5, 6, 9], [5, 6, 7, 8], [11]]
GREEDY = SamplingParams(max_tokens=4, temperature=0, ignore_eos=True)


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(token_budget=64, kv_memory="8MiB")


def columns(prompts: list[list[int]]) -> TokenColumns:
    tokens = np.array([t for p in prompts for t in p], dtype=np.int32)
    tokens.flags.writeable = False  # as a mapped file's
    return TokenColumns(tokens, np.cumsum([0, *map(len, prompts)], dtype=np.int64))


def test_columns_and_arrow_answer_as_lists_do(llm: LLM) -> None:
    expected = llm.generate(PROMPTS, GREEDY, progress=False)
    assert llm.generate(columns(PROMPTS), GREEDY, progress=False) == expected
    array = pa.array(PROMPTS, pa.list_(pa.int32()))
    assert llm.generate(array, GREEDY, progress=False) == expected
    assert llm.generate(pa.chunked_array([array[:1], array[1:]]), GREEDY, progress=False) == (
        expected
    )
    assert llm.last_run is not None
    assert llm.last_run.tokens.prompt == sum(map(len, PROMPTS))


def test_parameters_per_prompt(llm: LLM) -> None:
    params = [SamplingParams(max_tokens=2, seed=i, n=1 + i % 2) for i in range(len(PROMPTS))]
    expected = llm.generate(PROMPTS, params, progress=False)
    assert llm.generate(columns(PROMPTS), params, progress=False) == expected
    with pytest.raises(OptionError, match="1 sampling parameters for 4 prompts"):
        llm.generate(columns(PROMPTS), params[:1], progress=False)


def test_no_prompts(llm: LLM) -> None:
    assert llm.generate(columns([]), GREEDY, progress=False) == []
    assert llm.generate([], GREEDY, progress=False) == []


def test_wrong_columns_are_refused(llm: LLM) -> None:
    with pytest.raises(InvalidRequestError, match="outside the model's vocabulary") as caught:
        llm.generate(columns([[5], [5, 10**6]]), GREEDY, progress=False)
    assert caught.value.param == "prompts[1]"
    wrong = SamplingParams(max_tokens=1, logit_bias={10**6: 1.0})
    with pytest.raises(InvalidRequestError, match=r"params\[1\]"):
        llm.generate(columns(PROMPTS[:2]), [GREEDY, wrong], progress=False)


def test_chat_takes_what_files_take(llm: LLM) -> None:
    def said(content: object, **fields: object) -> list[dict[str, object]]:
        return [{"role": "user", "content": content, **fields}]

    parts = [
        {"type": "text", "text": "Hello", "cache_control": None},
        {"type": "text", "text": "you"},
    ]
    whole, joined = llm.chat([said("Hello\nyou"), said(parts, id="m1")], GREEDY, progress=False)
    assert joined.prompt_tokens == whole.prompt_tokens
    assert joined.choices == whole.choices
    for wrong, param in (
        (said([{"type": "image_url"}]), "conversations[1][0].content[0].type"),
        (said("hi", tool_calls=[{}]), "conversations[1][0].tool_calls"),
        ([], "conversations[1]"),
    ):
        with pytest.raises(InvalidRequestError) as caught:
            llm.chat([said("hi"), wrong], GREEDY, progress=False)
        assert caught.value.param == param


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
        with pytest.raises(InvalidRequestError, match=r"^conversations\[1\]") as caught:
            llm.chat([[user], [first, user]], GREEDY, progress=False)
        assert caught.value.code == code
    assert llm.chat([[user]], GREEDY, progress=False)[0].error is None
