"""The fields of a message and of a part of its content, and what becomes of each."""

from __future__ import annotations

from shoal.fates import Fate, Honoured, NoEffect, Refused, alike

_ONLY_TEXT = "Only text messages are: leave it out, or write it as text."
_GIVEN = "Given to the template."

REASONING = ("reasoning_content", "reasoning")
"""An earlier answer's reasoning; transformers gives it to templates by the names they know."""

MESSAGE_FIELDS: dict[str, Fate] = {
    "role": Honoured("`developer` is `system` to a template that knows no developer.", kind=str),
    "content": Honoured("A string or text parts; an assistant's may be null."),
    "name": Honoured(_GIVEN, kind=str),
    **alike(" ".join(REASONING), Honoured(_GIVEN, kind=str)),
    "tool_calls": Honoured("An earlier answer's calls: given to the template.", kind=list),
    "tool_call_id": Honoured("Of the call that a tool's result answers: given.", kind=str),
    "id": NoEffect("Clients copy it from answers."),
    "cache_control": NoEffect("What is shared is found in all prompts."),
    "annotations": Refused(_ONLY_TEXT, (None, [])),
    "refusal": Refused(_ONLY_TEXT, (None, "")),
    "audio": Refused(_ONLY_TEXT),
    "function_call": Refused("Give it as one of tool_calls."),
}

PART_FIELDS: dict[str, Fate] = {
    "type": Refused(_ONLY_TEXT, ("text",)),
    "text": Honoured("The text.", kind=str),
    **alike(
        "cache_control prompt_cache_breakpoint",
        NoEffect("What is shared is found in all prompts."),
    ),
    **alike("image_url input_audio file refusal", Refused(_ONLY_TEXT)),
}
