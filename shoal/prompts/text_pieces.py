"""Tokenise shared text once: texts in parts, each distinct part once, ids joined."""

from __future__ import annotations

import logging
import sys
from array import array
from collections.abc import Collection, Sequence
from typing import Any

from shoal.prompts.cuts import CHUNK_CHARACTERS, Cuts, find_cuts

CACHE_BYTES = 64 * 2**20
"""What each of the cache's two generations may hold."""
_ENTRY_BYTES = 200
"""Of a cached part, beyond its text and ids."""

_log = logging.getLogger(__name__)


class PieceTokenizer:
    """Ids equal to those of whole texts, at the price of what is new in them.

    Not for use by two threads at once.
    """

    def __init__(self, backend: Any, cuts: Cuts) -> None:
        self._backend = backend
        self._cuts = cuts
        self._cache = _Cache()

    @classmethod
    def create(cls, backend: Any, candidates: Collection[str]) -> PieceTokenizer | None:
        """For a tokenizer whose texts may be cut; None if not, and the log says so.

        Args:
            backend: a `tokenizers.Tokenizer` without truncation and padding.
            candidates: special tokens that the prompts will hold.
        """
        cuts = find_cuts(backend, candidates)
        if cuts is None:
            _log.info("the tokenizer's texts cannot be cut safely; prompts are tokenised whole")
            return None
        pieces = cls(backend, cuts)
        trial = _trial(cuts.marks)
        for special in (True, False):
            whole = backend.encode_batch_fast(trial, add_special_tokens=special)
            encoded = pieces.encode(trial, add_special_tokens=special)
            if [list(ids) for ids in encoded] != [encoding.ids for encoding in whole]:
                _log.warning(
                    "the tokenizer gives other ids for parts than for whole texts, which its "
                    "structure should exclude; prompts are tokenised whole"
                )
                return None
        return pieces

    def encode(self, texts: Sequence[str], *, add_special_tokens: bool) -> list[array[int]]:
        """Token ids of each text.

        Raises:
            Exception: what the tokenizer raises; it does not say which text was at fault.
        """
        parts = [self._cuts.parts(text) for text in texts]
        known: dict[str, array[int]] = {}
        missing: dict[str, None] = {}
        for part in (part for parts_of_text in parts for part in parts_of_text):
            if part in known or part in missing:
                continue
            ids = self._cache.get(part)
            if ids is None:
                missing[part] = None
            else:
                known[part] = ids
        if missing:
            new = list(missing)
            encodings = self._backend.encode_batch_fast(new, add_special_tokens=False)
            for part, encoding in zip(new, encodings, strict=True):
                ids = array("i", encoding.ids)
                known[part] = ids
                self._cache.put(part, ids)
        before = array("i", self._cuts.before if add_special_tokens else ())
        after = array("i", self._cuts.after if add_special_tokens else ())
        return [_joined(before, [known[part] for part in own], after) for own in parts]


def _joined(before: array[int], parts: list[array[int]], after: array[int]) -> array[int]:
    ids = before[:]
    for part in parts:
        ids.extend(part)
    ids.extend(after)
    return ids


class _Cache:
    """Parts and their ids, in bounded memory.

    Two generations: when the young one is full the old one is dropped and the young one becomes
    old; what is used again moves to the young one.
    """

    def __init__(self) -> None:
        self._young: dict[str, array[int]] = {}
        self._old: dict[str, array[int]] = {}
        self._bytes = 0

    def get(self, part: str) -> array[int] | None:
        ids = self._young.get(part)
        if ids is None and (ids := self._old.get(part)) is not None:
            self.put(part, ids)
        return ids

    def put(self, part: str, ids: array[int]) -> None:
        self._bytes += sys.getsizeof(part) + sys.getsizeof(ids) + _ENTRY_BYTES
        if self._bytes > CACHE_BYTES:
            self._old, self._young, self._bytes = self._young, {}, 0
        self._young[part] = ids


def _trial(marks: Sequence[str]) -> list[str]:
    """Texts that meet every kind of cut, with what pre-tokenizers treat apart around it."""
    words = (
        "It's a trial\n\n  of 12345 words, don't\t you  SEE? Größe \U0001f41f \u6f22\u5b57 "
        "\u043c\u0438\u0440\r\n e\u0301t\u00e9 \u00a0x"
    )
    long = " ".join([words] * (2 + 3 * CHUNK_CHARACTERS // len(words)))
    texts = ["", " ", "a", words, long, long[::-1]]
    for mark in marks:
        texts += [mark, f"{mark} {words}{mark}{mark}\n", f" {words} {mark}{long}{mark} "]
    return texts
