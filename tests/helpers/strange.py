"""Strange lines for a batch file: JSON that nobody should write, in every place it can stand."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import chain
from typing import Any

from shoal.requests.body_fields import BODY_FIELDS
from shoal.types import RequestParams
from tests.helpers.job_files import chat, completion

ENVELOPE = ["custom_id", "method", "url", "body", "extra"]
BODY = sorted({*RequestParams.model_fields, *chain(*BODY_FIELDS.values()), "no_such_field"})
SCALARS: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 0.5, -0.0, 1e-320, 1e308, 8.0, float("nan"), float("inf")),
    *(2**31, -(2**31) - 1, 2**53 + 1, 2**63 - 1, -(2**63), 2**63, 2**64, -(2**63) - 1, 10**400),
    *("", "x", "0", "1e9", "a\x00b", "\ud800", "\udfff\ud800", "\ufeff", "é\u0301", "\U0010ffff"),
    *("user", "assistant", "system", "villain", "text", "<user>", "{{ 7 * 7 }}", "\n", "x" * 700),
]
DEPTHS = [1, 2, 100, 251, 252, 253, 254, 255, 256, 500, 900, 1000, 1020, 1024, 1030, 3000]
KEYS = ["0", "1", "255", "256", "-1", "1_0", " 1", "1.0", "9" * 30, "9" * 5000, "", "a", "\x00"]
KEYS += ["role", "content", "name", "type", "text", "self", "conversation", "tokenize", "suffix"]


def nested(rng: random.Random, value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def value(rng: random.Random, depth: int = 0) -> Any:
    """Any JSON value, and some that JSON has no words for."""
    kind = rng.random()
    if kind < 0.55 or depth > 4:
        return rng.choice(SCALARS)
    if kind < 0.6:
        return nested(rng, rng.choice(SCALARS), rng.choice(DEPTHS))
    if kind < 0.6002:
        return [rng.choice(SCALARS[:-1])] * rng.choice([5000, 100_000])
    if kind < 0.8:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(KEYS): value(rng, depth + 1) for _ in range(rng.randrange(4))}


def message(rng: random.Random) -> Any:
    made = {"role": rng.choice(["user", "system", "assistant"]), "content": "hello"}
    return made | {rng.choice(["role", "content", "name", "refusal"]): value(rng)}


def body_value(rng: random.Random, name: str) -> Any:
    """A value that gets past the first check of its field more often than any would."""
    if rng.random() < 0.4:
        if name == "messages":
            return [message(rng) for _ in range(rng.randrange(1, 3))]
        if name in ("chat_template_kwargs", "metadata", "logit_bias", "response_format"):
            return {rng.choice(KEYS): value(rng)}
        if name in ("continue_final_message", "add_generation_prompt"):
            return rng.random() < 0.5
        if name in ("reasoning_effort", "verbosity"):
            return rng.choice([*KEYS, "none"])
        if name in ("prompt", "stop", "stop_token_ids"):
            return [value(rng) for _ in range(rng.randrange(1, 4))]
    return value(rng)


def lines(rng: random.Random, count: int) -> Iterator[bytes]:
    """Lines without newline, some of them good."""
    for number in range(count):
        line = rng.choice([chat, completion])(f"line {number}")
        for _ in range(rng.randrange(3)):
            name = rng.choice(BODY)
            line["body"][name] = body_value(rng, name)
        if rng.random() < 0.1:
            line["body"] |= {"tools": [value(rng)], "tool_choice": "none"}
        if rng.random() < 0.15:
            line[rng.choice(ENVELOPE)] = value(rng)
        yield encoded(rng, line)


def encoded(rng: random.Random, line: Any) -> bytes:
    text = written(line)
    data = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.1:  # cut, or one byte changed
        at = rng.randrange(len(data))
        data = data[:at] if rng.random() < 0.5 else data[:at] + rng.randbytes(1) + data[at + 1 :]
    return data.replace(b"\n", b" ")


def written(value: Any) -> str:
    """As JSON, whatever its depth."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(k)}:{written_deep(v)}" for k, v in value.items()) + "}"
    return written_deep(value)


def written_deep(value: Any) -> str:
    begin, end = [], []
    while isinstance(value, list | dict) and len(value) == 1:
        if isinstance(value, list):
            begin.append("[")
            end.append("]")
            value = value[0]
        else:
            (key,) = value
            begin.append("{" + json.dumps(key) + ":")
            end.append("}")
            value = value[key]
    if isinstance(value, dict):
        inner = written(value)
    elif isinstance(value, list):
        inner = "[" + ",".join(map(written_deep, value)) + "]"
    elif isinstance(value, int) and not isinstance(value, bool):
        inner = str(value)
    else:
        inner = json.dumps(value)
    return "".join(begin) + inner + "".join(reversed(end))
