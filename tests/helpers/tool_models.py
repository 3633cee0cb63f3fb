"""Random models whose tokenizers and chat templates call tools and reason as families do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from tests.helpers.models import byte_tokenizer, save_model
from tests.helpers.tool_templates import GLM45, GPT_OSS, LLAMA4, QWEN3_CODER

_TURN = "{{ '<|im_start|>' + m.role + '\n' }}"
QWEN = (
    "{% if tools %}{{ '<|im_start|>system\n<tools>' }}"
    "{% for tool in tools %}{{ '\n' ~ (tool | tojson) }}{% endfor %}"
    "{{ '\n</tools><|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}"
    "{% if m.role == 'tool' %}{{ '<|im_start|>user\n<tool_response>\n' ~ m.content }}"
    "{{ '\n</tool_response><|im_end|>\n' }}{% else %}"
    + _TURN
    + "{% if m.reasoning_content %}{{ '<think>\n' ~ m.reasoning_content ~ '\n</think>\n\n' }}"
    "{% endif %}{{ m.content }}{% for call in m.tool_calls or [] %}"
    '{{ \'\n<tool_call>\n{"name": "\' ~ call.function.name ~ \'", "arguments": \' }}'
    "{{ (call.function.arguments | tojson) ~ '}\n</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}"
    "{% elif begin_thinking %}{{ '<think>\n' }}{% endif %}{% endif %}"
)
_HEADER = "{{ '<|start_header_id|>' ~ m.role ~ '<|end_header_id|>\n\n' }}"
LLAMA3 = (
    "{% for m in messages %}"
    "{% if m.role == 'tool' %}{{ '<|start_header_id|>ipython<|end_header_id|>\n\n' ~ m.content }}"
    "{% else %}"
    + _HEADER
    + "{% if loop.first and tools %}{% for tool in tools %}{{ (tool | tojson) ~ '\n\n' }}"
    "{% endfor %}{% endif %}{{ m.content }}{% for call in m.tool_calls or [] %}"
    "{{ '{\"name\": \"' ~ call.function.name ~ '\", ' }}{{ '\"parameters\": ' }}"
    "{{ (call.function.arguments | tojson) ~ '}' }}{% endfor %}{% endif %}{{ '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
_MISTRAL = (
    "{{ '<s>' }}{% if tools %}{{ '[AVAILABLE_TOOLS]' ~ (tools | tojson) ~ '[/AVAILABLE_TOOLS]' }}"
    "{% endif %}{% for m in messages %}{% if m.role == 'user' %}"
    "{{ '[INST]' ~ m.content ~ '[/INST]' }}{% elif m.role == 'tool' %}"
    "{% if m.tool_call_id | length != 9 %}{{ raise_exception('ids have 9 characters') }}{% endif %}"
    "{{ '[TOOL_RESULTS]' ~ m.content ~ '[/TOOL_RESULTS]' }}{% else %}{{ m.content }}"
    "{% if m.tool_calls %}CALLS{% endif %}{{ '</s>' }}{% endif %}{% endfor %}"
)
MISTRAL = _MISTRAL.replace(
    "CALLS",
    "{{ '[TOOL_CALLS][' }}{% for call in m.tool_calls %}"
    '{{ \'{"name": "\' ~ call.function.name ~ \'", "arguments": \' }}'
    "{{ (call.function.arguments | tojson) ~ '}' }}{{ ',' if not loop.last }}{% endfor %}{{ ']' }}",
)
MISTRAL_ARGUMENTS = _MISTRAL.replace(
    "CALLS",
    "{% for call in m.tool_calls %}{{ '[TOOL_CALLS]' ~ call.function.name ~ '[ARGS]' }}"
    "{{ call.function.arguments | tojson }}{% endfor %}",
)
TEMPLATES = {
    "qwen": QWEN,
    "llama3": LLAMA3,
    "mistral": MISTRAL,
    "mistral_args": MISTRAL_ARGUMENTS,
    "gpt_oss": GPT_OSS,
    "qwen3_coder": QWEN3_CODER,
    "glm45": GLM45,
    "llama4": LLAMA4,
}
_CALLS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
_PLAIN = {
    "qwen": _CALLS,
    "qwen3_coder": ("<tool_call>", "</tool_call>"),
    "glm45": (*_CALLS, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
}
"""Added tokens that are text, and those that are special."""
_SPECIAL = {
    "qwen": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>"),
    "mistral": ("[INST]", "[/INST]", "[TOOL_CALLS]", "[THINK]", "[/THINK]"),
    "mistral_args": ("[INST]", "[/INST]", "[TOOL_CALLS]", "[ARGS]"),
    "gpt_oss": (
        *("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>"),
        *("<|return|>", "<|call|>"),
    ),
    "qwen3_coder": ("<|im_start|>", "<|im_end|>"),
    "glm45": ("<|im_start|>", "<|im_end|>"),
    "llama4": (
        "<|header_start|>",
        "<|header_end|>",
        "<|eot|>",
        "<|python_start|>",
        "<|python_end|>",
    ),
}
_ENDS = {"gpt_oss": ("<|return|>", "<|call|>")}
"""Tokens that end a sequence, beside the tokenizer's own."""

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"$ref": "#/$defs/city"},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
            "$defs": {"city": {"type": "string", "maxLength": 4}},
        },
        "strict": True,
    },
}
NOW: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "now",
        "parameters": {
            "type": "object",
            "properties": {"zone": {"enum": ["UTC", '\u00e9"x']}},
            "required": ["zone"],
            "additionalProperties": False,
        },
    },
}
TOOLS = [WEATHER, NOW]
SCHEMAS = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}


def tool_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """One token per byte, and the marks of the family."""
    tokenizer = byte_tokenizer()
    plain = [AddedToken(mark, special=False) for mark in _PLAIN.get(family, ())]
    special = [AddedToken(mark, special=True) for mark in _SPECIAL[family]]
    tokenizer.add_tokens([*plain, *special])
    tokenizer.chat_template = TEMPLATES[family]
    return tokenizer


def save_tool_model(folder: Path, family: str, **tokenizer_config: Any) -> Path:
    """A random Llama with the family's tokenizer; more may be written to its config."""
    save_model(folder, "llama", vocab_size=272, max_position_embeddings=2048)
    tokenizer = tool_tokenizer(family)
    tokenizer.save_pretrained(folder)
    if family in _ENDS:
        ends = [1, *tokenizer.convert_tokens_to_ids(list(_ENDS[family]))]
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | tokenizer_config))
    return folder
