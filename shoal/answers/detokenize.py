"""From token ids back to text and bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase, TokenizersBackend
from transformers.convert_slow_tokenizer import bytes_to_unicode

from shoal.types import Int32Array

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
# transformers leaves this function without types.
_BYTE_TO_UNICODE: dict[int, str] = bytes_to_unicode()  # type: ignore[no-untyped-call]
_UNICODE_TO_BYTE = {character: byte for byte, character in _BYTE_TO_UNICODE.items()}


REPLACEMENT = "\ufffd"
_CONTEXT_TOKENS = 6
"""Looked at before an answer: a character has at most four bytes, so at most four tokens."""
_MOST_CONTEXT_TOKENS = 32
"""Where those few show no whole text."""


@dataclass(frozen=True, slots=True)
class Context:
    """The end of a prompt, as far as the text of an answer depends on it.

    Decoders drop a space where a text begins, and join the bytes of a character, so an answer is
    decoded together with what came before.

    Attributes:
        ids: the prompt's last tokens; none where the answer's text does not depend on them.
        text: theirs.
    """

    ids: tuple[int, ...] = ()
    text: str = ""


NO_CONTEXT = Context()


class Detokenizer:
    """Decodes tokens exactly as the tokenizer's own `decode` does.

    Args:
        tokenizer: the model's; None if it has none, and all texts are empty.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None) -> None:
        self._tokenizer = tokenizer
        self._batched = _decodes_in_backend(tokenizer)
        added = {} if tokenizer is None else tokenizer.added_tokens_decoder
        self._added = {token: str(content.content) for token, content in added.items()}
        self._special = {token for token, content in added.items() if content.special}
        if not self._batched and tokenizer is not None:
            self._special.update(tokenizer.all_special_ids)
        decoders = _decoders(tokenizer)
        self._pieces = _piece_format(tokenizer, decoders)
        self._joins_bytes = self._batched and decoders == {"ByteLevel"}
        self._bytes: dict[int, bytes] = {}
        self._context_of = lru_cache(maxsize=4096)(self._find_context)

    @property
    def has_texts(self) -> bool:
        """Whether there is a tokenizer to make them with."""
        return self._tokenizer is not None

    def context(self, prompt: Sequence[int] | Int32Array, skip_special_tokens: bool) -> Context:
        """What the text of an answer to a prompt depends on."""
        context = NO_CONTEXT
        if self._tokenizer is None:
            return context
        for size in (_CONTEXT_TOKENS, _MOST_CONTEXT_TOKENS):
            last = tuple(int(token) for token in prompt[-size:])
            context = self._context_of(last, skip_special_tokens)
            if not context.ids or (context.text and REPLACEMENT not in context.text):
                break
        return context

    def _find_context(self, last: tuple[int, ...], skip: bool) -> Context:
        text = self.text(last, skip)
        if self._joins_bytes and text and not text.endswith(REPLACEMENT):
            return NO_CONTEXT  # bytes that follow a whole character stand for themselves
        return Context(last, text)

    @property
    def special_tokens(self) -> frozenset[int]:
        """Tokens that are marks, not text."""
        marks = [] if self._tokenizer is None else self._tokenizer.all_special_ids
        return frozenset(self._special).union(marks)

    @property
    def knows_bytes(self) -> bool:
        """Whether a token has bytes of its own, whatever stands beside it; see `token_bytes`."""
        return self._pieces != "other"

    def skips(self, token: int, skip_special_tokens: bool) -> bool:
        """Whether texts leave the token out."""
        return skip_special_tokens and token in self._special

    def text(
        self, ids: Sequence[int], skip_special_tokens: bool, context: Context = NO_CONTEXT
    ) -> str:
        """The text of a whole sequence of tokens.

        Bytes that form no character, or not yet, appear as U+FFFD.

        Args:
            context: what came before; the text of both together is its text and this one.
        """
        return self.continued(ids, skip_special_tokens, context)[0]

    def continued(
        self, ids: Sequence[int], skip_special_tokens: bool, context: Context
    ) -> tuple[str, int]:
        """The text, and how many characters the one before loses to it.

        A character that the context begins, shown as U+FFFD there, belongs to the tokens that
        complete it.
        """
        (whole,) = self._decoded([[*context.ids, *ids]], skip_special_tokens)
        return self._after(context, whole, ids, skip_special_tokens)

    def texts(
        self,
        batch: Sequence[Sequence[int]],
        skip_special_tokens: bool,
        contexts: Sequence[Context] | None = None,
    ) -> list[str]:
        """The texts of several sequences, each on its own; in parallel where the library can."""
        if contexts is None:
            return self._decoded(batch, skip_special_tokens)
        joined = [[*context.ids, *ids] for context, ids in zip(contexts, batch, strict=True)]
        wholes = self._decoded(joined, skip_special_tokens)
        return [
            self._after(context, whole, ids, skip_special_tokens)[0]
            for context, whole, ids in zip(contexts, wholes, batch, strict=True)
        ]

    def _after(
        self, context: Context, whole: str, ids: Sequence[int], skip: bool
    ) -> tuple[str, int]:
        kept = context.text
        while not whole.startswith(kept):
            if not kept.endswith(REPLACEMENT):
                # The answer changes whole characters before it, as an invalid byte after others
                # does with byte fallback; they are not its own.
                return self.text(ids, skip), 0
            kept = kept[:-1]
        return whole[len(kept) :], len(context.text) - len(kept)

    def _decoded(self, batch: Sequence[Sequence[int]], skip_special_tokens: bool) -> list[str]:
        if self._tokenizer is None:
            return [""] * len(batch)
        if self._batched:
            backend: Any = self._tokenizer.backend_tokenizer
            decoded: list[str] = backend.decode_batch(
                [list(ids) for ids in batch], skip_special_tokens=skip_special_tokens
            )
            return decoded
        return [
            str(self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))
            for ids in batch
        ]

    def token_text(self, token: int) -> str:
        """The text of one token by itself; part of a character appears as U+FFFD."""
        return self.token_bytes(token).decode("utf-8", errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token: those of a sequence join to the UTF-8 of its text.

        Empty for an id that the tokenizer does not have, as vocabularies padded by the model do,
        and without a tokenizer.
        """
        found = self._bytes.get(token)
        if found is None:
            found = self._bytes[token] = self._find_bytes(token)
        return found

    def _find_bytes(self, token: int) -> bytes:
        if token in self._added:
            return self._added[token].encode()
        if self._tokenizer is None:
            return b""
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if not isinstance(piece, str):
            return b""
        if self._pieces == "byte-level" and all(c in _UNICODE_TO_BYTE for c in piece):
            return bytes(_UNICODE_TO_BYTE[character] for character in piece)
        if self._pieces == "sentencepiece":
            byte = _BYTE_TOKEN.fullmatch(piece)
            return bytes([int(byte[1], 16)]) if byte else piece.replace("▁", " ").encode()
        return self.text([token], skip_special_tokens=False).encode()


def _decodes_in_backend(tokenizer: PreTrainedTokenizerBase | None) -> bool:
    """Whether `tokenizer.decode` is its Rust backend's `decode` and nothing more."""
    if not isinstance(tokenizer, TokenizersBackend):
        return False
    kind = type(tokenizer)
    return (
        kind.decode is TokenizersBackend.decode
        and kind._decode is TokenizersBackend._decode
        and not tokenizer.clean_up_tokenization_spaces
    )


def _decoders(tokenizer: PreTrainedTokenizerBase | None) -> set[str]:
    """The kinds of decoders that follow each other in the Rust backend; empty without one."""
    if not isinstance(tokenizer, TokenizersBackend):
        return set()
    decoder = tokenizer.backend_tokenizer.decoder
    if decoder is None:
        return set()
    state = json.loads(decoder.__getstate__())
    return {part["type"] for part in state.get("decoders", [state])}


def _piece_format(tokenizer: PreTrainedTokenizerBase | None, decoders: set[str]) -> str:
    """How the vocabulary writes bytes: "byte-level", "sentencepiece" or "other"."""
    if not isinstance(tokenizer, TokenizersBackend):
        return "sentencepiece" if hasattr(tokenizer, "sp_model") else "other"
    if "ByteLevel" in decoders:
        return "byte-level"
    return "sentencepiece" if decoders & {"ByteFallback", "Metaspace"} else "other"
