"""Columns of tables as prompts, of every library that people keep prompts in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from shoal import LLM, SamplingParams
from shoal.errors import OptionError
from shoal.prompts.python_prompts import prompts_of
from shoal.prompts.token_columns import TokenColumns

TEXTS = ["The sea is", "A fish", None, "The sea is deep"]
IDS = [[5, 6, 7], [5, 6, 8], [9]]


def found(column: Any) -> list[Any]:
    prompts = prompts_of(column)
    if isinstance(prompts, TokenColumns):
        return [ids.tolist() for ids in np.split(prompts.tokens, prompts.offsets[1:-1])]
    return [list(p) if isinstance(p, np.ndarray) else p for p in prompts]


def test_arrow() -> None:
    assert found(pa.array(TEXTS)) == TEXTS
    assert found(pa.array(TEXTS).dictionary_encode()) == TEXTS
    assert found(pa.table({"p": pa.chunked_array([TEXTS[:1], TEXTS[1:]])})["p"]) == TEXTS
    assert found(pa.array(IDS)) == IDS
    with pytest.raises(OptionError, match=r'whole Table: give one .* llm\.generate\(df\["prompt"'):
        prompts_of(pa.table({"p": TEXTS}))


def test_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"p": TEXTS, "x": range(4)}, index=[7, 3, 5, 1])
    assert found(frame["p"]) == TEXTS
    for kind in ("category", "string", object):
        assert [t if isinstance(t, str) else None for t in found(frame["p"].astype(kind))] == TEXTS
    assert found(pandas.Series(IDS)) == IDS
    assert found(pandas.Series(["a", [1, 2]])) == ["a", [1, 2]]
    with pytest.raises(OptionError, match="whole DataFrame"):
        prompts_of(frame)


def test_polars() -> None:
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"p": TEXTS, "i": [*IDS, [1]]})
    assert found(frame["p"]) == TEXTS
    assert found(frame["p"].cast(polars.Categorical)) == TEXTS
    assert found(frame["i"]) == [*IDS, [1]]
    assert isinstance(prompts_of(frame["i"].cast(polars.List(polars.Int32))), TokenColumns)
    for table in (frame, frame.lazy()):
        with pytest.raises(OptionError, match=f"whole {type(table).__name__}"):
            prompts_of(table)


def test_datasets() -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"p": TEXTS[:3], "i": IDS})
    assert found(data["p"]) == TEXTS[:3]
    assert found(data["i"]) == found(data.with_format("numpy")["i"]) == IDS
    with pytest.raises(OptionError, match="whole Dataset"):
        prompts_of(data)


@pytest.mark.long
def test_columns_of_prompts_and_of_conversations_are_answered() -> None:
    chats = [[{"role": "user", "content": text}] for text in ("Hello", "Good morning")]
    columns: list[tuple[Any, Any]] = [(pa.array(TEXTS), chats)]
    for name in ("pandas", "polars"):
        try:
            library = __import__(name)
        except ModuleNotFoundError:
            continue
        columns.append((library.Series(TEXTS), library.Series(chats)))
    llm, params = LLM(kv_memory="16MiB"), SamplingParams(temperature=0, max_tokens=4)
    expected = [
        o.outputs[0].text if o.outputs else o.error.code for o in llm.generate(TEXTS, params)
    ]
    answered = [output.outputs[0].text for output in llm.chat(chats, params)]
    assert expected[2] == "invalid_value"
    for prompts, conversations in columns:
        outputs = llm.generate(prompts, params)
        assert [o.outputs[0].text if o.outputs else o.error.code for o in outputs] == expected
        outputs = llm.chat(conversations, params)
        assert [output.outputs[0].text for output in outputs] == answered
    llm.close()
