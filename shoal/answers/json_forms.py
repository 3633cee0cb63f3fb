"""Forms in which arguments are the JSON of an object: Hermes and Qwen, Llama 3, Mistral."""

from __future__ import annotations

from shoal.answers.formats import ARGUMENTS, NAME, NAME_JSON, SPACE, CallFormat, Parts


def _object(name: str, arguments: str) -> Parts:
    """The parts of a JSON object with two keys."""
    head = ("{", SPACE, f'"{name}"', SPACE, ":", SPACE, NAME_JSON, SPACE, ",", SPACE)
    return (*head, f'"{arguments}"', SPACE, ":", SPACE, ARGUMENTS, SPACE, "}")


_FUNCTION = {"function": "{content}"}
NAMED = {"function": {"name": "{name}", "arguments": "{content}"}}
"""A call whose name the pattern before it captures."""

HERMES = CallFormat(
    field={
        "open_pattern": r"\s*<tool_call>",
        "close": "</tool_call>",
        "repeats": True,
        "content": "json",
        "transform": _FUNCTION,
    },
    call=("<tool_call>", SPACE, *_object("name", "arguments"), SPACE, "</tool_call>"),
    mark="<tool_call>",
)
LLAMA3 = CallFormat(
    field={
        "open_pattern": r'(?:\A|;)\s*(?:<\|python_tag\|>)?\s*(?=\{\s*"name")',
        "close_pattern": r'(?=\s*;\s*\{\s*"name")',
        "repeats": True,
        "content": "json",
        "transform": _FUNCTION,
    },
    call=_object("name", "parameters"),
    several=False,
    prefix="<|python_tag|>",
)
MISTRAL = CallFormat(
    field={
        "open_pattern": r"\[TOOL_CALLS\]\s*(?=\[)",
        "content": "json",
        "transform": {
            "function": {"name": "{name}", "arguments": "{arguments}"},
        },
        "transform_each": True,
    },
    before=("[TOOL_CALLS]", SPACE, "["),
    call=_object("name", "arguments"),
    between=(",", SPACE),
    after=("]",),
    mark="[TOOL_CALLS]",
    short_ids=True,
)
MISTRAL_ARGUMENTS = CallFormat(
    field={
        "open_pattern": r"\[TOOL_CALLS\](?P<name>[^\[\]{}]+)(?:\[ARGS\])?\s*(?=\{)",
        "close_pattern": r"(?=\[TOOL_CALLS\])",
        "repeats": True,
        "content": "json",
        "transform": NAMED,
    },
    call=("[TOOL_CALLS]", NAME, "[ARGS]", ARGUMENTS),
    between=(),
    mark="[TOOL_CALLS]",
    short_ids=True,
)
