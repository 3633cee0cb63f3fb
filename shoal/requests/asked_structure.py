"""What form a line's answer is to have, under whichever name its endpoint has for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shoal.answers.structure import Structure, of_response_format, of_structured_outputs
from shoal.prompts.refusals import wrong_value
from shoal.requests.response_input import response_format
from shoal.types import RESPONSES_URL


def asked_structure(body: Mapping[str, Any], url: str) -> Structure | None:
    """What the answer is to look like, under OpenAI's name or vLLM's; None: nothing is said.

    Raises:
        InvalidRequestError: it is wrong, or said under both names.
    """
    openai, vllm = body.get("response_format"), body.get("structured_outputs")
    if url == RESPONSES_URL:
        name, found = "text.format", response_format(body)
    else:
        name = "response_format"
        found = None if openai is None else of_response_format(openai, f"body.{name}")
    if vllm is None:
        return found
    if found is not None:
        raise wrong_value("body.structured_outputs", f"does not go with {name}; give one")
    return of_structured_outputs(vllm, "body.structured_outputs")
