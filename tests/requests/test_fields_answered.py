"""Fields that change no answer, through whole jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shoal import EngineOptions, JobSpec, run_job
from shoal.types import (
    CHAT_URL,
    COMPLETIONS_URL,
)
from tests.helpers.job_files import (
    read_records,
    write_lines,
)

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


ASKS_FOR_NOTHING: dict[str, Any] = {
    "store": True,
    "service_tier": "auto",
    "modalities": ["text"],
    "parallel_tool_calls": True,
    "tools": [],
    "tool_choice": "none",
    "prompt_cache_key": "k",
    "prompt_cache_retention": "24h",
    "safety_identifier": "u1",
    "verbosity": "low",
    "reasoning_effort": "low",
    "functions": [],
    "function_call": "none",
    "max_completion_tokens": 8.0,
    "top_logprobs": 0,
    "best_of": 1,
    "echo": False,
    "add_generation_prompt": True,
    "continue_final_message": False,
    "priority": 0,
    "suffix": "",
    "n": 1.0,
    "seed": 1.0,
    "logit_bias": {},
    "stop": [],
}


SAID: list[dict[str, Any]] = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "again"},
]


REPLAYED = [
    {
        "role": "user",
        "name": "",
        "id": "x1",
        "content": [{"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}}],
    },
    SAID[1]
    | {"annotations": [], "tool_calls": [], "refusal": None, "audio": None}
    | {"reasoning_content": "think"},
    SAID[2],
]


PLAIN = {"model": "shoal-tiny", "messages": SAID, "max_tokens": 8, "temperature": 0}


def texts_of(lines: list[tuple[str, str, dict]], folder: Path) -> dict[str, tuple[str, int]]:
    """Each answer of a job on the bundled model, and its prompt's tokens; none may fail."""
    asked = [
        {"custom_id": name, "method": "POST", "url": url, "body": body} for name, url, body in lines
    ]
    source, output = folder / "in.jsonl", folder / "out.jsonl"
    write_lines(source, asked)
    options = EngineOptions(kv_memory="16MiB", token_budget=256)
    run_job(JobSpec(input=source, output=output, options=options, quiet=True))
    assert not (folder / "out.errors.jsonl").exists()
    texts = {}
    for record, (_, url, _) in zip(read_records(output), lines, strict=True):
        body = record["response"]["body"]
        (choice,) = body["choices"]
        text = choice["message"]["content"] if "chat" in url else choice["text"]
        texts[record["custom_id"]] = text, body["usage"]["prompt_tokens"]
    assert len(texts) == len(lines)
    return texts


@pytest.mark.long
def test_lines_that_ask_for_nothing_are_answered_as_without(tmp_path: Path) -> None:
    lines = [(name, CHAT_URL, PLAIN | {name: value}) for name, value in ASKS_FOR_NOTHING.items()]
    lines += [
        ("plain", CHAT_URL, PLAIN),
        ("all", CHAT_URL, PLAIN | ASKS_FOR_NOTHING),
        ("replayed", CHAT_URL, PLAIN | {"messages": REPLAYED}),
        ("no tool", CHAT_URL, PLAIN | {"tools": [TOOL], "tool_choice": "none"}),
        ("azure", "/chat/completions", PLAIN),
        ("slash", "/v1/chat/completions/", PLAIN),
    ]
    assert len(set(texts_of(lines, tmp_path).values())) == 1


@pytest.mark.long
def test_an_answer_continues_the_final_message(tmp_path: Path) -> None:
    said = [SAID[0], {"role": "assistant", "content": "The ans"}]
    continued = PLAIN | {"messages": said, "continue_final_message": True}
    rendered = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nThe ans"
    body = {"model": "shoal-tiny", "prompt": rendered, "max_tokens": 8, "temperature": 0}
    texts = texts_of(
        [
            ("continued", CHAT_URL, continued),
            ("by hand", COMPLETIONS_URL, body),
            ("azure", "/completions/", body),
            ("answered", CHAT_URL, continued | {"continue_final_message": False}),
        ],
        tmp_path,
    )
    answered = texts.pop("answered")
    (continued_text,) = set(texts.values())
    assert continued_text != answered
