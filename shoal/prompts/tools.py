"""Proof that the tools given to a chat template arrive in the rendered prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Tools = Sequence[Mapping[str, Any]]
"""JSON schemas, as OpenAI's API and transformers take them."""

_TEXTS = ("name", "description")


def first_vanished(tools: Tools, render: Callable[[Tools], str]) -> str | None:
    """The first name or description that the prompt does not depend on; None if all matter.

    Args:
        render: a conversation with these tools.
    """
    rendered = render(tools)
    for where, others in _altered(tools, "tools"):
        if render(others) == rendered:
            return where
    return None


def _altered(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """The value with one of its texts replaced by another as long, for each of them in turn."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            path = f"{where}.{key}"
            if key in _TEXTS and isinstance(inner, str) and inner.strip():
                yield path, {**value, key: ("x" if "x" not in inner else "y") * len(inner)}
            else:
                yield from ((at, {**value, key: other}) for at, other in _altered(inner, path))
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            for at, other in _altered(inner, f"{where}[{i}]"):
                yield at, [*value[:i], other, *value[i + 1 :]]
