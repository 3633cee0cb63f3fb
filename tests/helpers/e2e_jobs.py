"""Request lines for whole-command tests on the bundled model."""

from __future__ import annotations

import random
from typing import Any

POLICIES = [
    "You sort support tickets. Answer with the queue. " + " ".join(f"{w}={i}" for i, w in words)
    for words in (
        list(enumerate(["refund", "damage", "login", "invoice", "address"] * 3)),
        list(enumerate(["delivery", "coupon", "warranty", "password"] * 4)),
    )
]


def chat(custom_id: str, content: str, policy: int = 0, **body: Any) -> dict[str, Any]:
    messages = [
        {"role": "system", "content": POLICIES[policy]},
        {"role": "user", "content": content},
    ]
    defaults = {"model": "shoal-tiny", "max_tokens": 6, "temperature": 0}
    return line(custom_id, "/v1/chat/completions", {**defaults, "messages": messages, **body})


def completion(custom_id: str, prompt: Any, **body: Any) -> dict[str, Any]:
    defaults = {"model": "shoal-tiny", "max_tokens": 6, "temperature": 0}
    return line(custom_id, "/v1/completions", {**defaults, "prompt": prompt, **body})


def line(custom_id: str, url: str, body: dict[str, Any]) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def good(index: int) -> dict[str, Any]:
    name = f"good-{index}"
    match index % 6:
        case 0:
            return completion(name, [f"first {index}", "second"], n=2)
        case 1:
            return completion(name, [3 + index % 50, 60, 61])
        case 2:
            return chat(name, f"ticket {index % 9}", 1, logprobs=True, top_logprobs=2)
        case _:
            return chat(name, f"my order {index} is late", index % 2)


def bad(index: int) -> bytes | dict[str, Any]:
    name = f"bad-{index}"
    match index % 12:
        case 0:
            return b"{not json"
        case 1:
            return b"null"
        case 2:
            return b'{"custom_id": "\xff\xfe"}'
        case 3:
            return {"method": "POST", "url": "/v1/completions", "body": {}}
        case 4:
            return line(name, "/v1/embeddings", {"model": "shoal-tiny", "input": "x"})
        case 5:
            return completion(name, "x", model="gpt-4o")
        case 6:
            return completion(name, "x", temperature=3)
        case 7:
            return completion(name, "x", max_tokens="many")
        case 8:
            return chat(name, "x", functions=[{"name": "f"}])
        case 9:
            return completion(name, "far too long " * 3000)
        case 10:
            return completion(name, "")
        case _:
            return chat(name, "x", stream=True)


def mixed(count: int, seed: int) -> list[bytes | dict[str, Any]]:
    """Good and bad lines, about four to one, and one repeated custom_id in a hundred."""
    rng = random.Random(seed)
    lines: list[bytes | dict[str, Any]] = []
    for index in range(count):
        if index and index % 100 == 0:
            lines.append(good(index - 99))
        else:
            lines.append(bad(index // 5) if rng.random() < 0.2 else good(index))
    return lines
