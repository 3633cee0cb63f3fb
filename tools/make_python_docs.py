"""Write the tables of `docs/python.md` from the code that honours and refuses.

python tools/make_python_docs.py            writes them
python tools/make_python_docs.py --check    exits with 1 when they are not up to date
"""

import argparse
import re
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from shoal import SamplingParams
from shoal.config import EngineOptions
from shoal.llm.fates import Fate, Honoured, NoEffect, Refused
from shoal.llm.options import CALL_OPTIONS, LLM_OPTIONS
from shoal.llm.sampling_params import sampling_fates

PAGE = Path(__file__).resolve().parent.parent / "docs" / "python.md"
_DEFAULTS = {field.name: field.default for field in fields(EngineOptions)}
_OF_LLM = {"model": None, "tokenizer": None, "seed": 0, "chat_template": None}
_OF_LLM |= {"kv_cache_memory_bytes": None}
_OF_CALLS: dict[str, Any] = {"sampling_params": None, "use_tqdm": True, "tools": None}
_OF_CALLS |= {"chat_template": None, "chat_template_kwargs": None}
_OF_CALLS |= {"add_generation_prompt": True, "continue_final_message": False}


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
        "calls": table(CALL_OPTIONS, _OF_CALLS),
    }


def table(fates: Mapping[str, Fate], defaults: Mapping[str, Any]) -> str:
    """What is honoured, name by name; then what has no effect and what is refused, by reason."""
    lines = ["| honoured | default | |", "|---|---|---|"]
    for name, fate in fates.items():
        if isinstance(fate, Honoured):
            default = f"`{_shown(defaults[name])}`" if name in defaults else ""
            lines.append(f"| `{name}` | {default} | {_cell(fate.meaning)} |")
    lines += ["", "| accepted, without effect | why |", "|---|---|"]
    lines += _by_reason(fates, NoEffect)
    lines += ["", "| refused | what to do |", "|---|---|"]
    lines += _by_reason(fates, Refused)
    return "\n".join(lines)


def _by_reason(fates: Mapping[str, Fate], kind: type) -> list[str]:
    names: dict[str, list[str]] = {}
    for name, fate in fates.items():
        if isinstance(fate, kind):
            reason = fate.why if isinstance(fate, NoEffect) else getattr(fate, "instead", "")
            names.setdefault(reason, []).append(f"`{name}`{_allowed(fate)}")
    return [f"| {', '.join(each)} | {_cell(reason)} |" for reason, each in names.items()]


def _allowed(fate: Fate) -> str:
    """The values of a refused name that ask for nothing, but for None."""
    if not isinstance(fate, Refused):
        return ""
    values = [value for value in fate.harmless if value not in (None, [], (), {})]
    if not values:
        return ""
    ends = values if len(values) < 5 else [values[0], "...", values[-1]]
    return f" (but {', '.join(f'`{_shown(value)}`' for value in ends)})"


def _shown(value: Any) -> str:
    return repr(str(value)) if isinstance(value, str) and value != "..." else str(value)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def written(page: str) -> str:
    """The page with its tables made anew."""
    for name, text in tables().items():
        mark = rf"(<!-- table: {name} -->\n).*?(\n<!-- end -->)"
        page, count = re.subn(mark, lambda m, t=text: m[1] + t + m[2], page, flags=re.S)
        if count != 1:
            raise SystemExit(f"the page has no place for table {name}")
    return page


def main() -> int:
    """Write the tables, or check them; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write the tables of docs/python.md.")
    parser.add_argument("--check", action="store_true", help="only compare; 1 when they differ")
    before = PAGE.read_text(encoding="utf-8")
    after = written(before)
    if not parser.parse_args().check:
        PAGE.write_text(after, encoding="utf-8")
        return 0
    if before == after:
        return 0
    print(f"{PAGE} is not up to date: run python tools/make_python_docs.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
