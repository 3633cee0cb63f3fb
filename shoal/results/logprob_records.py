"""Log-probabilities in the two shapes of the API: chat, and (older) completions."""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Sequence
from typing import Any

from shoal.answers.detokenize import NO_CONTEXT, REPLACEMENT, Context, Detokenizer
from shoal.types import Choice, RequestTable, TokenLogprob

LOWEST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON cannot write; OpenAI's value."""
_PATIENCE = 16
"""Tokens after which bytes that form no character are taken for wrong, not for incomplete."""


def chat_logprobs(tokens: Sequence[TokenLogprob], detokenizer: Detokenizer) -> dict[str, Any]:
    """The `logprobs` of a chat choice."""

    def entry(token_id: int, logprob: float | None) -> dict[str, Any]:
        return {
            "token": detokenizer.token_text(token_id),
            "logprob": _written(logprob),
            "bytes": list(detokenizer.token_bytes(token_id)),
        }

    content = [
        entry(token.token_id, token.logprob)
        | {"top_logprobs": [entry(*pair) for pair in token.named or token.top]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(
    tokens: Sequence[TokenLogprob],
    choice: Choice,
    request: int,
    table: RequestTable,
    detokenizer: Detokenizer,
) -> dict[str, Any]:
    """The `logprobs` of a completions choice.

    `text_offset` counts characters of the choice's text up to the first that the token helps to
    write; a token past the end of the text (a cut stop string) has the text's length. The first
    token of an echoed prompt, which nothing precedes, has null for both values.

    Args:
        request: the choice's, in `table`.
    """
    params, ids = table.sampling(request), [token.token_id for token in tokens]
    skip, context = params.skip_special_tokens, NO_CONTEXT
    if not params.echo:
        context = detokenizer.context(table.prompt(request), skip)
    offsets = _text_offsets(ids, skip, context, detokenizer)
    return {
        "tokens": [detokenizer.token_text(token) for token in ids],
        "token_logprobs": [_written(token.logprob) for token in tokens],
        "top_logprobs": [_top(token, detokenizer) for token in tokens],
        "text_offset": [min(offset, len(choice.text)) for offset in offsets],
    }


def _top(token: TokenLogprob, detokenizer: Detokenizer) -> dict[str, float | None] | None:
    """The alternatives by text; of two that read the same the first, or likelier, stays."""
    if token.logprob is None:
        return None
    by_text: dict[str, float | None] = {}
    for token_id, logprob in token.named or token.top:
        by_text.setdefault(detokenizer.token_text(token_id), _written(logprob))
    by_text.setdefault(detokenizer.token_text(token.token_id), _written(token.logprob))
    return by_text


def _text_offsets(
    ids: Sequence[int], skip: bool, context: Context, detokenizer: Detokenizer
) -> list[int]:
    """Where each token begins to write in the text of all, which follows a context."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def written(token: int) -> str:
        data = b"" if detokenizer.skips(token, skip) else detokenizer.token_bytes(token)
        return decoder.decode(data)

    for token in context.ids:
        written(token)  # the context may begin a character
    pieces = [written(token) for token in ids]
    joined = "".join(pieces) + decoder.decode(b"", final=True)
    text = detokenizer.text(ids, skip, context)
    if not joined.endswith(text):
        return _offsets_by_steps(ids, skip, context, detokenizer)
    unseen = len(joined) - len(text)  # the space that a decoder drops where a text begins
    offsets = [0, *itertools.accumulate(map(len, pieces))]
    return [max(0, offset - unseen) for offset in offsets[: len(ids)]]


def _offsets_by_steps(
    ids: Sequence[int], skip: bool, context: Context, detokenizer: Detokenizer
) -> list[int]:
    """The same where bytes do not join to the text: by what each token adds to a decoded end."""
    everything = [*context.ids, *ids]
    begin, end, shown = 0, len(context.ids), len(context.text)
    offsets, characters = [], 0
    for last in range(end + 1, len(everything) + 1):
        offsets.append(characters)
        grown = detokenizer.text(everything[begin:last], skip)
        if len(grown) > shown and (not grown.endswith(REPLACEMENT) or last - end > _PATIENCE):
            characters += len(grown) - shown
            begin, end = end, last
            shown = len(detokenizer.text(everything[begin:end], skip))
    return offsets


def _written(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, LOWEST_LOGPROB)
