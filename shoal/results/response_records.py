"""The `response.body` of a /v1/responses line: OpenAI's Response object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shoal.answers.detokenize import Detokenizer
from shoal.answers.reading import ChatAnswer
from shoal.results.logprob_records import chat_logprobs
from shoal.types import Completion, RequestParams, TokenLogprob


def response_body(
    key: str,
    created: int,
    model: str,
    completion: Completion,
    answer: ChatAnswer,
    params: RequestParams,
    metadata: Mapping[str, Any] | None,
    detokenizer: Detokenizer,
) -> dict[str, Any]:
    """What a response says.

    Args:
        key: its ids are made of this.
        created: seconds since 1970.
        answer: its text, read.
        metadata: of the request, which the response repeats.
    """
    (choice,) = completion.choices
    cut = choice.finish_reason == "length"
    status = "incomplete" if cut else "completed"
    text = {
        "type": "output_text",
        "text": answer.content or "",
        "annotations": [],
        "logprobs": _logprobs(choice.logprobs, detokenizer),
    }
    return {
        "id": f"resp_{key}",
        "object": "response",
        "created_at": created,
        "status": status,
        "completed_at": None if cut else created,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "model": model,
        "output": [
            *_reasoning(key, status, answer),
            {
                "id": f"msg_{key}",
                "type": "message",
                "role": "assistant",
                "status": status,
                "content": [text],
            },
        ],
        "usage": _usage(completion, answer),
        "max_output_tokens": params.token_limit,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "metadata": metadata,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }


def _reasoning(key: str, status: str, answer: ChatAnswer) -> list[dict[str, Any]]:
    """The item before the message, where the model reasoned."""
    if answer.reasoning is None:
        return []
    content = [{"type": "reasoning_text", "text": answer.reasoning}]
    item = {"id": f"rs_{key}", "type": "reasoning", "summary": [], "content": content}
    return [item | {"status": status}]


def _usage(completion: Completion, answer: ChatAnswer) -> dict[str, Any]:
    prompt, generated = completion.prompt_tokens, completion.generated_tokens
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": generated,
        "output_tokens_details": {"reasoning_tokens": answer.reasoning_tokens},
        "total_tokens": prompt + generated,
    }


def _logprobs(
    tokens: Sequence[TokenLogprob] | None, detokenizer: Detokenizer
) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = (
        [] if tokens is None else chat_logprobs(tokens, detokenizer)["content"]
    )
    return content
