"""Write the tables of `docs/python.md` from the code that honours and refuses.

python tools/make_python_docs.py            writes them
python tools/make_python_docs.py --check    exits with 1 when they are not up to date
"""

import sys
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from fate_tables import by_reason, cell, of_kind, write

from shoal import SamplingParams
from shoal.config import EngineOptions
from shoal.fates import Fate, Honoured, NoEffect, Refused
from shoal.llm.options import CALL_OPTIONS, LLM_OPTIONS, POOLING_CALL_OPTIONS
from shoal.llm.sampling_params import sampling_fates

_DEFAULTS = {field.name: field.default for field in fields(EngineOptions)}
_EMPTY = (None, [], (), {})
_OF_LLM = {"model": None, "tokenizer": None, "seed": 0, "chat_template": None}
_OF_LLM |= {"kv_cache_memory_bytes": None, "hf_overrides": None, "pooler_config": None}
_OF_LLM |= {"runner": "auto", "convert": "auto", "task": None}
_OF_CALLS: dict[str, Any] = {"sampling_params": None, "use_tqdm": True, "tools": None}
_OF_CALLS |= {"chat_template": None, "chat_template_kwargs": None}
_OF_CALLS |= {"add_generation_prompt": True, "continue_final_message": False}
_OF_POOLING = {"pooling_params": None, "use_tqdm": True, "chat_template": None}


def tables() -> dict[str, str]:
    """Each table by the name it has in the page."""
    sampling = {field.name: field.default for field in fields(SamplingParams)}
    options = dict(_OF_LLM)
    for name, fate in LLM_OPTIONS.items():
        if isinstance(fate, Honoured) and fate.option and name not in options:
            options[name] = _DEFAULTS[fate.option]
    return {
        "sampling": table(sampling_fates(), sampling),
        "options": table(LLM_OPTIONS, options),
        "pooling": table(POOLING_CALL_OPTIONS, _OF_POOLING),
        "calls": table(CALL_OPTIONS, _OF_CALLS),
    }


def table(fates: Mapping[str, Fate], defaults: Mapping[str, Any]) -> str:
    """What is honoured, name by name; then what has no effect and what is refused, by reason."""
    lines = ["| honoured | default | |", "|---|---|---|"]
    for name, fate in of_kind(fates, Honoured).items():
        default = f"`{_shown(defaults[name])}`" if name in defaults else ""
        lines.append(f"| `{name}` | {default} | {cell(fate.meaning)} |")
    without_effect = by_reason(("accepted, without effect", "why"), of_kind(fates, NoEffect))
    refused = by_reason(("refused", "what to do"), of_kind(fates, Refused), _shown, _EMPTY)
    return "\n".join([*lines, "", *without_effect, "", *refused])


def _shown(value: Any) -> str:
    return repr(str(value)) if isinstance(value, str) and value != "..." else str(value)


if __name__ == "__main__":
    sys.exit(write("python.md", tables()))
