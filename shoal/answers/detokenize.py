"""From token ids back to text and bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase, TokenizersBackend
from transformers.convert_slow_tokenizer import bytes_to_unicode

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
# transformers leaves this function without types.
_BYTE_TO_UNICODE: dict[int, str] = bytes_to_unicode()  # type: ignore[no-untyped-call]
_UNICODE_TO_BYTE = {character: byte for byte, character in _BYTE_TO_UNICODE.items()}


class Detokenizer:
    """Decodes tokens exactly as the tokenizer's own `decode` does."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._batched = _decodes_in_backend(tokenizer)
        self._added = {
            token: str(added.content) for token, added in tokenizer.added_tokens_decoder.items()
        }
        self._pieces = _piece_format(tokenizer)
        self._bytes: dict[int, bytes] = {}

    def text(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        """The text of a whole sequence of tokens.

        Bytes that form no character, or not yet, appear as U+FFFD.
        """
        return self.texts([ids], skip_special_tokens)[0]

    def texts(self, batch: Sequence[Sequence[int]], skip_special_tokens: bool) -> list[str]:
        """The texts of several sequences, each on its own; in parallel where the library can."""
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

        Empty for an id that the tokenizer does not have, as vocabularies padded by the model do.
        """
        found = self._bytes.get(token)
        if found is None:
            found = self._bytes[token] = self._find_bytes(token)
        return found

    def _find_bytes(self, token: int) -> bytes:
        if token in self._added:
            return self._added[token].encode()
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if not isinstance(piece, str):
            return b""
        if self._pieces == "byte-level" and all(c in _UNICODE_TO_BYTE for c in piece):
            return bytes(_UNICODE_TO_BYTE[character] for character in piece)
        if self._pieces == "sentencepiece":
            byte = _BYTE_TOKEN.fullmatch(piece)
            return bytes([int(byte[1], 16)]) if byte else piece.replace("▁", " ").encode()
        return self.text([token], skip_special_tokens=False).encode()


def _decodes_in_backend(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether `tokenizer.decode` is its Rust backend's `decode` and nothing more."""
    kind = type(tokenizer)
    return (
        isinstance(tokenizer, TokenizersBackend)
        and kind.decode is TokenizersBackend.decode
        and kind._decode is TokenizersBackend._decode
        and not tokenizer.clean_up_tokenization_spaces
    )


def _piece_format(tokenizer: PreTrainedTokenizerBase) -> str:
    """How the vocabulary writes bytes: "byte-level", "sentencepiece" or "other"."""
    if not isinstance(tokenizer, TokenizersBackend):
        return "sentencepiece" if hasattr(tokenizer, "sp_model") else "other"
    decoder = tokenizer.backend_tokenizer.decoder
    if decoder is None:
        return "other"
    state = json.loads(decoder.__getstate__())
    kinds = {part["type"] for part in state.get("decoders", [state])}
    if "ByteLevel" in kinds:
        return "byte-level"
    return "sentencepiece" if kinds & {"ByteFallback", "Metaspace"} else "other"
