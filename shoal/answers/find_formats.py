"""Which form a model's answers have: by the name of vLLM's parser, or by its chat template."""

from __future__ import annotations

from shoal.answers.formats import CallFormat, ReasoningFormat, between_marks
from shoal.answers.harmony import CHANNELS, HARMONY
from shoal.answers.json_forms import HERMES, LLAMA3, MISTRAL, MISTRAL_ARGUMENTS
from shoal.answers.pythonic import LLAMA4
from shoal.answers.xml_forms import GLM45, QWEN3_CODER

_CALL_FORMATS = {
    "glm45": GLM45,
    "hermes": HERMES,
    "llama3_json": LLAMA3,
    "llama4_pythonic": LLAMA4,
    "openai": HARMONY,
    "qwen3_coder": QWEN3_CODER,
}


def named_call_format(name: str, template: str) -> CallFormat | None:
    """The form that vLLM's parser of this name reads; Mistral's has two, told by the template."""
    if name == "mistral":
        return MISTRAL_ARGUMENTS if "[ARGS]" in template else MISTRAL
    return _CALL_FORMATS.get(name)


def find_call_format(template: str) -> CallFormat | None:
    """The form in which a chat template writes earlier calls; None if it is none of ours."""
    if "<|channel|>" in template and "functions." in template:
        return HARMONY
    if "<tool_call>" in template:
        if "<function=" in template:
            return QWEN3_CODER
        return GLM45 if "<arg_key>" in template else HERMES
    if "[TOOL_CALLS]" in template:
        return named_call_format("mistral", template)
    if "[func_name1(" in template:
        return LLAMA4
    if '"parameters": ' in template and '"name": ' in template and "ipython" in template:
        return LLAMA3
    return None


THINK = between_marks("<think>", "</think>")
MISTRAL_THINK = between_marks("[THINK]", "[/THINK]")
REASONING_FORMATS = {
    "deepseek_r1": THINK,
    "glm45": THINK,
    "mistral": MISTRAL_THINK,
    "openai_gptoss": CHANNELS,
    "qwen3": THINK,
}
"""By the names of vLLM's parsers."""


def find_reasoning_format(template: str, added_tokens: frozenset[str]) -> ReasoningFormat | None:
    """The marks that a chat template writes or looks for, or that are tokens of their own."""
    if CHANNELS.open in template:
        return CHANNELS
    for marks in (THINK, MISTRAL_THINK):
        in_tokens = marks.open in added_tokens and marks.close in added_tokens
        if in_tokens or marks.close in template:
            return marks
    return None
