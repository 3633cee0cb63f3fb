"""The tokens of a batch, from the records of its output: exact, however often it was resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

_INPUT = ("prompt_tokens", "input_tokens")
_OUTPUT = ("completion_tokens", "output_tokens")
"""What records call them: those of chats and completions, and those of responses."""


def usage_of(output: Path) -> dict[str, Any]:
    """The sums over an output file, as a batch object has them."""
    tokens_in = tokens_out = cached = reasoning = 0
    with output.open("rb") as file:
        for line in file:
            usage = orjson.loads(line)["response"]["body"].get("usage") or {}
            tokens_in += _first(usage, _INPUT)
            tokens_out += _first(usage, _OUTPUT)
            cached += _detail(usage, _INPUT, "cached_tokens")
            reasoning += _detail(usage, _OUTPUT, "reasoning_tokens")
    return {
        "input_tokens": tokens_in,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": tokens_out,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": tokens_in + tokens_out,
    }


def _first(usage: dict[str, Any], names: tuple[str, ...]) -> int:
    return next((int(usage[name]) for name in names if usage.get(name) is not None), 0)


def _detail(usage: dict[str, Any], names: tuple[str, ...], detail: str) -> int:
    return sum(int((usage.get(f"{name}_details") or {}).get(detail) or 0) for name in names)
