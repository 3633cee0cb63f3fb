"""What the tokens of a job look like as text, for the diagnoses that compare texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from shoal.diagnose.hashing import UInt64Array, mix, powers
from shoal.types import BoolArray, Int32Array, Int64Array

TokenBytes = Callable[[int], bytes]
"""The bytes of a token; those of a sequence join to the UTF-8 of its text."""

_PUNCTUATION = frozenset(
    ".,;:!?'\"`\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}"
    "\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}"
    "\N{EN DASH}\N{EM DASH}\N{HORIZONTAL ELLIPSIS}"
)
"""Marks that prose can gain or lose; others, as in a formula or a format, mean something."""


_LETTERS = 0xA000
"""Yi syllables, of which 0xA080 to 0xA0FF are letters: stand-ins for bytes of a character."""


@dataclass(frozen=True)
class TokenTexts:
    """Properties of the K distinct tokens of some prompts.

    Attributes:
        exact: uint64 [K], hash of the text without white space.
        folded: uint64 [K], hash of the text without white space, case and punctuation.
        exact_length, folded_length: int64 [K], characters that the hashes are of.
        begins_word: bool [K], the first character is neither letter nor digit.
        ends_word: bool [K], the last character is neither letter nor digit.
        newlines: int64 [K].
        blank: bool [K], white space only.
    """

    exact: UInt64Array
    folded: UInt64Array
    exact_length: Int64Array
    folded_length: Int64Array
    begins_word: BoolArray
    ends_word: BoolArray
    newlines: Int64Array
    blank: BoolArray


def token_texts(tokens: Int32Array, token_bytes: TokenBytes) -> tuple[TokenTexts, Int64Array]:
    """The texts of the distinct tokens, and each token's index among them, int64 [total].

    The loop is over the vocabulary in use, whatever the number of prompts. An id without a text
    takes one from its number, since two of them are not the same.
    """
    distinct, text_index = np.unique(tokens, return_inverse=True)
    texts = [_text(token_bytes(token)) or f"<{token}>" for token in distinct.tolist()]
    exact = ["".join(text.split()) for text in texts]
    folded = ["".join(c for c in text.casefold() if c not in _PUNCTUATION) for text in exact]
    table = TokenTexts(
        exact=_hashes(exact),
        folded=_hashes(folded),
        exact_length=np.array([len(text) for text in exact], dtype=np.int64),
        folded_length=np.array([len(text) for text in folded], dtype=np.int64),
        begins_word=np.array([not text[:1].isalnum() for text in texts], dtype=np.bool_),
        ends_word=np.array([not text[-1:].isalnum() for text in texts], dtype=np.bool_),
        newlines=np.array([text.count("\n") for text in texts], dtype=np.int64),
        blank=np.array([not text.strip() for text in texts], dtype=np.bool_),
    )
    return table, text_index.reshape(-1).astype(np.int64)


def _text(data: bytes) -> str:
    """The text; bytes that are no text by themselves each stand for a letter of their own."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "".join(chr(_LETTERS + byte) if byte >= 0x80 else chr(byte) for byte in data)


def _hashes(texts: list[str]) -> UInt64Array:
    """Polynomial hashes of strings, such that those of joined strings can be had from them.

    A character c at position k counts mix(c)·base^k, as in `run_hashes`.
    """
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    characters = np.frombuffer("".join(texts).encode("utf-32-le"), dtype=np.uint32)
    start = np.cumsum(lengths) - lengths
    position = np.arange(len(characters)) - np.repeat(start, lengths)
    terms = mix(characters) * powers(int(lengths.max(initial=0)))[position]
    total = np.zeros(len(characters) + 1, dtype=np.uint64)
    np.cumsum(terms, out=total[1:])
    hashes: UInt64Array = total[start + lengths] - total[start]
    return hashes
