"""The fields inside a /v1/responses body, and what becomes of each; `body_fields` has its own."""

from __future__ import annotations

from shoal.fates import Fate, Honoured, NoEffect, Refused, alike

LOGPROBS = "message.output_text.logprobs"
"""What `include` may list."""

_ONLY_TEXT = "Only text messages are: leave it out, or write it as text."
_CACHED = NoEffect("What is shared is found in all prompts.")
_NO_SUMMARY = Refused("No reasoning is summed up; an answer is the model's whole text.")

ITEM_FIELDS: dict[str, Fate] = {
    "type": Refused("Items are messages of text: leave it out, or write it as one.", ("message",)),
    "role": Honoured("`user`, `assistant`, `system`, `developer`, or what the template knows."),
    "content": Honoured("A string or text parts."),
    **alike("id status phase", NoEffect("Clients copy it from answers.")),
}
"""Of an item of `input`."""

ITEM_PART_FIELDS: dict[str, Fate] = {
    "type": Refused(_ONLY_TEXT, ("input_text", "output_text")),
    "text": Honoured("The text.", kind=str),
    "logprobs": NoEffect("Clients copy it from answers."),
    "annotations": Refused(_ONLY_TEXT, (None, [])),
    "prompt_cache_breakpoint": _CACHED,
    **alike("detail file_id image_url file_data file_url filename refusal", Refused(_ONLY_TEXT)),
}
"""Of a part of an item's content."""

TEXT_FIELDS: dict[str, Fate] = {
    "format": Honoured("What an answer must look like.", kind=dict),
    "verbosity": Honoured("Given to the template.", kind=str),
}
"""Of `text`."""

FORMAT_FIELDS: dict[str, Fate] = {
    "type": Honoured("`text`, `json_object` or `json_schema`."),
    "schema": Honoured("The JSON schema.", kind=dict),
    "name": NoEffect("No answer depends on it.", kind=str),
    "description": NoEffect("No answer depends on it.", kind=str),
    "strict": NoEffect("A schema is always kept.", kind=bool),
}
"""Of `text.format`."""

REASONING_FIELDS: dict[str, Fate] = {
    "effort": Honoured("Given to the template, and with it whether to think.", kind=str),
    **alike("summary generate_summary", _NO_SUMMARY),
    "context": Refused("Items are messages, all of which are read.", (None, "auto")),
    "mode": Refused("There is one mode.", (None, "standard")),
}
"""Of `reasoning`."""
