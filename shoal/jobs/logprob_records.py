"""Log-probabilities in the two shapes of the API: chat, and (older) completions."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from shoal.answers.detokenize import Detokenizer
from shoal.types import TokenLogprob

LOWEST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON cannot write; OpenAI's value."""


def chat_logprobs(tokens: Sequence[TokenLogprob], detokenizer: Detokenizer) -> dict[str, Any]:
    """The `logprobs` of a chat choice."""

    def entry(token_id: int, logprob: float | None) -> dict[str, Any]:
        return {
            "token": detokenizer.token_text(token_id),
            "logprob": _written(logprob),
            "bytes": list(detokenizer.token_bytes(token_id)),
        }

    content = [
        entry(token.token_id, token.logprob) | {"top_logprobs": [entry(*top) for top in token.top]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(
    tokens: Sequence[TokenLogprob], text: str, detokenizer: Detokenizer
) -> dict[str, Any]:
    """The `logprobs` of a completions choice.

    `text_offset` counts characters of the choice's text up to the first that the token helps to
    write; a token past the end of the text (a cut stop string) has the text's length. The first
    token of an echoed prompt, which nothing precedes, has null for both values.
    """
    return {
        "tokens": [detokenizer.token_text(token.token_id) for token in tokens],
        "token_logprobs": [_written(token.logprob) for token in tokens],
        "top_logprobs": [_top(token, detokenizer) for token in tokens],
        "text_offset": _text_offsets(tokens, len(text), detokenizer),
    }


def _top(token: TokenLogprob, detokenizer: Detokenizer) -> dict[str, float | None] | None:
    """The alternatives by text; the likelier of two tokens that read the same stays."""
    if token.logprob is None:
        return None
    by_text: dict[str, float | None] = {}
    for token_id, logprob in token.top:
        by_text.setdefault(detokenizer.token_text(token_id), _written(logprob))
    by_text.setdefault(detokenizer.token_text(token.token_id), _written(token.logprob))
    return by_text


def _text_offsets(
    tokens: Sequence[TokenLogprob], length: int, detokenizer: Detokenizer
) -> list[int]:
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    offsets, characters = [], 0
    for token in tokens:
        offsets.append(min(characters, length))
        characters += len(decoder.decode(detokenizer.token_bytes(token.token_id)))
    return offsets


def _written(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, LOWEST_LOGPROB)
