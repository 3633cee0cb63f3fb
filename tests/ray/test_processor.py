"""`shoal.ray.processor` on a real Ray: as one LLM row by row, and wrong rows stay rows."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

import shoal
from shoal.errors import InvalidRequestError, OptionError

pytest.importorskip("ray", reason="Ray is not installed: pip install 'shoal[ray]'")

import shoal.ray as shoal_ray

ENGINE = {"dtype": "float32", "device": "cpu", "kv_memory": "8MiB", "max_num_batched_tokens": 128}
GREEDY = {"temperature": 0.0, "max_tokens": 6}
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "kind": {"enum": ["a", "b"]}},
    "required": ["ok", "kind"],
    "additionalProperties": False,
}


STRUCTURE = {"json": SCHEMA, "disable_any_whitespace": True}


@pytest.fixture(scope="module")
def llm() -> Any:
    return shoal.LLM(**ENGINE)


def config(**more: Any) -> shoal_ray.ProcessorConfig:
    return shoal_ray.ProcessorConfig(**{"engine_kwargs": ENGINE, "sampling_params": GREEDY, **more})


def prompts(count: int) -> list[str]:
    families = ["The river is", "Once upon a time there", "A list of colours:"]
    return [f"{families[i % 3]} number {i // 3}" for i in range(count)]


def by_id(dataset: Any) -> list[dict[str, Any]]:
    return sorted(dataset.take_all(), key=lambda row: row["id"])


def test_two_actors_answer_as_one_llm(ray_data: Any, llm: Any) -> None:
    texts = prompts(12)
    dataset = ray_data.from_items([{"id": i, "prompt": text} for i, text in enumerate(texts)])
    found = by_id(shoal_ray.processor(config(concurrency=2, rows_per_plan=5))(dataset))
    wanted = llm.generate(texts, shoal.SamplingParams(**GREEDY), use_tqdm=False)
    assert [row["prompt"] for row in found] == texts
    assert [row["generated_text"] for row in found] == [o.outputs[0].text for o in wanted]
    assert [row["num_input_tokens"] for row in found] == [len(o.prompt_token_ids) for o in wanted]
    assert [row["num_generated_tokens"] for row in found] == [
        len(o.outputs[0].token_ids) for o in wanted
    ]
    assert {row["finish_reason"] for row in found} <= {"stop", "length"}
    assert all(row["error"] is None and "parsed" not in row for row in found)


def test_wrong_rows_stay_rows_beside_their_reason(ray_data: Any, llm: Any) -> None:
    rows = [
        {"id": 0, "prompt": "fine", "sampling_params": None},
        {"id": 1, "prompt": None, "sampling_params": None},
        {"id": 2, "prompt": "", "sampling_params": None},
        {"id": 3, "prompt": "word " * 20_000, "sampling_params": None},
        {"id": 4, "prompt": "params", "sampling_params": '{"temperature": 9}'},
        {"id": 5, "prompt": "params", "sampling_params": '{"stop_token_ids": [99999999]}'},
        {"id": 6, "prompt": "params", "sampling_params": "{"},
        {"id": 7, "prompt": "short", "sampling_params": '{"max_tokens": 2}'},
    ]
    found = by_id(shoal_ray.processor(config())(ray_data.from_arrow(pa.Table.from_pylist(rows))))
    wrong = {row["id"]: row["error"] for row in found if row["error"] is not None}
    assert sorted(wrong) == [1, 2, 3, 4, 5, 6]
    assert "no prompt" in wrong[1]
    assert "temperature" in wrong[4]
    assert all(row["error_code"] for row in found if row["error"] is not None)
    assert all(row["generated_text"] is None for row in found if row["error"] is not None)
    fine = llm.generate(["fine"], shoal.SamplingParams(**GREEDY), use_tqdm=False)
    assert found[0]["generated_text"] == fine[0].outputs[0].text
    assert found[7]["num_generated_tokens"] == 2


def test_chats_with_a_schema_are_parsed(ray_data: Any, llm: Any) -> None:
    asked = {**GREEDY, "max_tokens": 60, "structured_outputs": STRUCTURE}
    dataset = ray_data.from_items([{"id": i, "about": f"thing {i}"} for i in range(3)])
    found = by_id(
        shoal_ray.processor(
            config(column="messages", chat=True, sampling_params=asked),
            preprocess=lambda row: {"messages": [{"role": "user", "content": row["about"]}]},
            postprocess=lambda row: {"id": row["id"], "parsed": row["parsed"], "got": row["about"]},
        )(dataset)
    )
    assert [sorted(row) for row in found] == [["got", "id", "parsed"]] * 3
    assert all(isinstance(row["parsed"]["ok"], bool) for row in found)
    assert all(row["parsed"]["kind"] in "ab" for row in found)


def test_what_cannot_be_is_refused_by_name(ray_data: Any) -> None:
    with pytest.raises(InvalidRequestError, match="flat_map"):
        config(sampling_params={"n": 2})
    with pytest.raises(InvalidRequestError, match="temprature"):
        config(sampling_params={"temprature": 0})
    with pytest.raises(OptionError, match="rows_per_plan"):
        config(rows_per_plan=0)
    taken = ray_data.from_items([{"prompt": "a", "error": "mine"}])
    with pytest.raises(Exception, match="rename them"):
        shoal_ray.processor(config())(taken).take_all()
