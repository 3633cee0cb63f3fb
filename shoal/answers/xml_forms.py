"""Forms in which each argument has marks of its own: Qwen3-Coder's and GLM's.

Texts stand as they are, all else as JSON; transformers casts values by the tool's schema. A call
counts only if all of it is there, which a look ahead makes sure of: a cut one stays content.
"""

from __future__ import annotations

import re
from typing import Any

from shoal.answers.formats import ARGUMENTS, NAME, SPACE, CallFormat, ParameterFormat
from shoal.answers.json_forms import NAMED


def _field(head: str, tag: str, end: str, close: str) -> dict[str, Any]:
    """Of a response template.

    Args:
        head: pattern of what stands before the parameters; captures the name.
        tag: pattern of a parameter; captures key and value.
        end: what a parameter ends with.
        close: pattern of what stands behind the parameters.
    """
    anonymous = re.sub(r"\?P<\w+>", "?:", head), re.sub(r"\?P<\w+>", "?:", tag)
    return {
        "open_pattern": rf"\s*{head}(?=(?>\s*{anonymous[1]})*+\s*{close})",
        "close_pattern": rf"(?<=(?:{end}|{anonymous[0]})\s*){close}",
        "repeats": True,
        "content": "xml-inline",
        "content_args": {"tag_pattern": tag},
        "transform": NAMED,
    }


QWEN3_CODER = CallFormat(
    field=_field(
        r"<tool_call>\s*<function=(?P<name>[^>\n]+)>",
        r"<parameter=(?P<key>[^>\n]+)>\n?(?P<value>.*?)\n?</parameter>",
        "</parameter>",
        r"</function>\s*</tool_call>",
    ),
    call=(
        *("<tool_call>", SPACE, "<function=", NAME, ">", SPACE),
        *(ARGUMENTS, SPACE, "</function>", SPACE, "</tool_call>"),
    ),
    mark="<tool_call>",
    parameters=ParameterFormat(
        before=("<parameter=", NAME, ">\n"),
        end="\n</parameter>",
        text_end="</parameter>",
        between=(SPACE,),
    ),
)
GLM45 = CallFormat(
    field=_field(
        r"<tool_call>(?P<name>[^<\s]+)",
        r"<arg_key>(?P<key>[^<]*)</arg_key>\s*<arg_value>(?P<value>.*?)</arg_value>",
        "</arg_value>",
        "</tool_call>",
    ),
    call=("<tool_call>", NAME, SPACE, ARGUMENTS, SPACE, "</tool_call>"),
    mark="<tool_call>",
    parameters=ParameterFormat(
        before=("<arg_key>", NAME, "</arg_key>", SPACE, "<arg_value>"),
        end="</arg_value>",
        text_end="</arg_value>",
        between=(SPACE,),
    ),
)
