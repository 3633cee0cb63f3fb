"""Pieces of prompts as one safe line of text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from shoal.answers.detokenize import Detokenizer
from shoal.types import RequestTable

Decode = Callable[[Sequence[int]], str]
"""Text of token ids, special tokens included."""


def decoder(tokenizer: PreTrainedTokenizerBase | None) -> Decode:
    """The texts of a tokenizer; of a model that has none, its numbers."""
    detokenizer = Detokenizer(tokenizer)

    def text(ids: Sequence[int]) -> str:
        if detokenizer.has_texts:
            return detokenizer.text(ids, skip_special_tokens=False)
        return "".join(f"<{token}>" for token in ids)

    return text


@dataclass(frozen=True)
class Excerpts:
    """Shows parts of a job's prompts."""

    table: RequestTable
    decode: Decode

    def beginning(self, request: int, start: int, length: int, most: int) -> str:
        """How the prompt's tokens [start, start + length) begin: at most `most` of them."""
        text = self.exact(request, start, start + min(length, most))
        return ("…" if start else "") + text + ("…" if length > most else "")

    def exact(self, request: int, start: int, end: int) -> str:
        """The prompt's tokens [start, end) on one line, safe to print."""
        return one_line(self.decode(self.table.prompt(request)[max(start, 0) : end].tolist()))

    def characters(self, request: int, tokens: int) -> int:
        """Characters of the prompt's first tokens."""
        return len(self.decode(self.table.prompt(request)[:tokens].tolist()))


def one_line(text: str) -> str:
    """The text with everything unprintable escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
