"""Write the tables of `docs/fields.md` from the code that honours and refuses fields of requests.

python tools/make_fields_docs.py            writes them
python tools/make_fields_docs.py --check    exits with 1 when they are not up to date
"""

import json
import sys
from collections.abc import Mapping

from fate_tables import asking_for_nothing, by_reason, cell, of_kind, write

from shoal.fates import Fate, Honoured, NoEffect, Refused
from shoal.prompts.message_fields import MESSAGE_FIELDS, PART_FIELDS
from shoal.prompts.tool_fields import CALL_FIELDS, CALLED_FIELDS, FUNCTION_FIELDS, TOOL_FIELDS
from shoal.requests.body_fields import BODY_FIELDS, LINE_FIELDS
from shoal.requests.response_fields import (
    FORMAT_FIELDS,
    ITEM_FIELDS,
    ITEM_PART_FIELDS,
    REASONING_FIELDS,
    TEXT_FIELDS,
)
from shoal.types import (
    CHAT_URL,
    CLASSIFY_URL,
    COMPLETIONS_URL,
    EMBEDDINGS_URL,
    RERANK_URL,
    RESPONSES_URL,
    SCORE_URL,
)


def tables() -> dict[str, str]:
    """Each table by the name it has in the page."""
    return {
        "line": table(LINE_FIELDS),
        "chat": table(BODY_FIELDS[CHAT_URL]),
        "completions": table(BODY_FIELDS[COMPLETIONS_URL]),
        "responses": table(BODY_FIELDS[RESPONSES_URL]),
        "item": table(ITEM_FIELDS),
        "item part": table(ITEM_PART_FIELDS),
        "text": table(TEXT_FIELDS),
        "format": table(FORMAT_FIELDS),
        "reasoning": table(REASONING_FIELDS),
        "embeddings": table(BODY_FIELDS[EMBEDDINGS_URL]),
        "score": table(BODY_FIELDS[SCORE_URL]),
        "rerank": table(BODY_FIELDS[RERANK_URL]),
        "classify": table(BODY_FIELDS[CLASSIFY_URL]),
        "message": table(MESSAGE_FIELDS),
        "part": table(PART_FIELDS),
        "tool": table(TOOL_FIELDS),
        "function": table(FUNCTION_FIELDS),
        "call": table(CALL_FIELDS),
        "called": table(CALLED_FIELDS),
    }


def table(fates: Mapping[str, Fate]) -> str:
    """One table for each of the four things that become of fields, as far as there are such."""
    honoured = of_kind(fates, Honoured)
    lines = ["| honoured | |", "|---|---|"]
    lines += [f"| `{name}` | {cell(fate.meaning)} |" for name, fate in honoured.items()]
    refused = of_kind(fates, Refused)
    unless = {name: fate for name, fate in refused.items() if asking_for_nothing(fate)}
    always = {name: fate for name, fate in refused.items() if name not in unless}
    for heads, names in (
        (("ignored: it cannot change an answer", "why"), of_kind(fates, NoEffect)),
        (("accepted only where it asks for nothing", "else"), unless),
        (("refused", "what to do"), always),
    ):
        lines += ["", *by_reason(heads, names, json.dumps)] if names else []
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(write("fields.md", tables()))
