"""The channels of gpt-oss (OpenAI's harmony): analysis is reasoning, commentary calls, final says.

    <|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...
    <|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>

`<|call|>` ends a sequence as `<|return|>` does, so an answer has one call. Commentary that calls
nothing is said to the user.
"""

from __future__ import annotations

from shoal.answers.formats import ARGUMENTS, NAME, CallFormat, OneOf, ReasoningFormat
from shoal.answers.json_forms import NAMED

_START = r"(?:<\|start\|>assistant)?"
_TO = r"to=functions\.(?P<name>[^\s<]+)"

HARMONY = CallFormat(
    field={
        "open_pattern": _START
        + rf"(?: ?{_TO}<\|channel\|>(?:commentary|analysis)"
        + rf"|<\|channel\|>(?:commentary|analysis) {_TO})"
        + r" ?(?:<\|constrain\|>)?(?:json)?<\|message\|>",
        "close": ["<|call|>", "<|end|>"],
        "repeats": True,
        "content": "json",
        "transform": NAMED,
    },
    call=(
        OneOf(
            (
                ("<|channel|>", "commentary to=functions.", NAME),
                (" to=functions.", NAME, "<|channel|>", "commentary"),
            )
        ),
        OneOf(((" ", "<|constrain|>", "json"), (" json",), ())),
        "<|message|>",
        ARGUMENTS,
    ),
    several=False,
    ends=True,
)
CHANNELS = ReasoningFormat(
    open="<|channel|>analysis<|message|>",
    close="<|end|>",
    after="<|start|>assistant",
    header="<|channel|>final<|message|>",
    field={
        "open_pattern": _START + r"<\|channel\|>analysis<\|message\|>",
        "close": "<|end|>",
        "content": "text",
        "repeats": True,
        "join": "\n",
    },
    others={
        "headers": {
            "open_pattern": r"<\|end\|>|"
            + _START
            + r"<\|channel\|>(?:final|commentary)(?: ?(?:<\|constrain\|>)?json)?<\|message\|>",
            "close_pattern": "",
            "repeats": True,
        }
    },
    join="\n",
)
