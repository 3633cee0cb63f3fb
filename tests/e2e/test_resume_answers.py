"""kill -9 amid a job of tools, schemas and reasoning: it goes on as if nothing had happened."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from tests.e2e.conftest import Shoal
from tests.helpers.job_files import chat
from tests.helpers.tool_models import TOOLS, save_tool_model

KILLS = 1
"""Each as soon as the run has saved a record of its own."""
OBJECT = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}


def lines() -> list[dict[str, Any]]:
    """Six kinds of answers, each with draws of its own, three times."""
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": OBJECT}}
    now = {"type": "function", "function": {"name": "now"}}
    thinks = {"chat_template_kwargs": {"begin_thinking": True}}
    kinds: list[dict[str, Any]] = [
        {"tools": TOOLS, "tool_choice": now, "parallel_tool_calls": False},
        {"tools": TOOLS, "parallel_tool_calls": False, "response_format": form},
        {"response_format": form, "n": 2, "frequency_penalty": 0.5, "logprobs": True},
        {"structured_outputs": {"regex": "[a-z]{40}"}},
        {"tools": TOOLS, "tool_choice": "required", **thinks},
        {"response_format": form, "logit_bias": {"261": 4}, **thinks},
    ]
    return [
        chat(
            f"{number}",
            f"fish {number}",
            **{"max_tokens": 90, "temperature": 1, "seed": number} | kind,
        )
        for number, kind in enumerate(kinds * 3)
    ]


def said(records: list[dict[str, Any]]) -> list[Any]:
    """Messages and usage, without the ids of calls, which are made from the job's."""
    found = []
    for record in records:
        body = record["response"]["body"]
        messages = [choice["message"] for choice in body["choices"]]
        for message in messages:
            for call in message.get("tool_calls", []):
                assert call.pop("id").startswith("call_")
        found.append((record["custom_id"], messages, body["usage"]))
    return found


def test_a_killed_job_goes_on(shoal: Shoal) -> None:
    save_tool_model(shoal.folder / "toy", "qwen")
    shoal.write("in.jsonl", lines())
    options = ("--model", "toy", "--dtype", "float32", "--device", "cpu", "--quiet")
    command = ("run", "in.jsonl", *options, "--token-budget", "64", "--kv-memory", "320KiB")
    assert shoal(*command, "-o", "calm.jsonl") == 0
    journal = shoal.folder / "out.jsonl.journal"

    def saved() -> int:
        return journal.read_bytes().count(b" done ") if journal.exists() else 0

    killed = 0
    for _ in range(KILLS):
        before = saved()
        process = shoal.start(*command, "-o", "out.jsonl")
        while process.poll() is None and saved() == before:
            time.sleep(0.002)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
            while process.poll() is None:
                time.sleep(0.002)
    assert killed > 0
    assert 0 < saved() < len(lines())
    assert shoal(*command, "-o", "out.jsonl") == 0
    found = said(shoal.read("out.jsonl"))
    assert found == said(shoal.read("calm.jsonl"))
    assert sum("tool_calls" in message for _, messages, _ in found for message in messages) > 0
