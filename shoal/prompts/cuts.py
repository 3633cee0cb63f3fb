"""Where a text may be cut so that its parts, tokenised alone, give the ids of the whole.

A fast tokenizer (Hugging Face `tokenizers`) works in this order: added tokens are split off the
raw text; each part between them is normalised; a pre-tokenizer splits it further; the model
turns each of these splits into ids, alone; a post-processor puts special tokens around. From this
follow two kinds of cuts, and `find_cuts` decides by the tokenizer's structure which of them hold.

*Before a mark*, a special token that no other added token can hide: a part then starts with a
mark and ends before the next one. Nothing of a part reaches into another. (The mark stays with the
text behind it because Metaspace treats text at the very start differently.)

*At a joint*, between a letter and a space or newline behind it, if the pre-tokenizer always splits
there. That holds when its patterns are alternations of `_KNOWN`: none of these matches a letter
followed by white space, none looks behind, only `\\s+(?!\\S)` looks ahead and that ends in white
space. So no match reaches across a joint, and since letters are always matched, one ends at it.
"""

from __future__ import annotations

import json
import re
import string
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

CHUNK_CHARACTERS = 256
"""Text between marks is cut at the first joint after this many characters."""

_LETTERS = (
    "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u00ff\u0410-\u044f\u0620-\u064a"
    "\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5\uac00-\ud7a3"
)
"""Latin, Cyrillic, Arabic, Kana, Han, Hangul: all of category L, and kept by NFC."""
_JOINT = re.compile(f"[{_LETTERS}](?=[ \n])")

_PUNCTUATION = frozenset(string.punctuation) - {"_"}
"""What a mark may begin with: neither white space nor part of a word, which would touch the
`rstrip` or `single_word` of an added token before it."""

_SUFFIXES = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_COVERING = frozenset(
    {
        r"\p{L}+",
        r" ?\p{L}+",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
        r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
    }
)
"""Alternatives that match every letter."""
_O200K = frozenset(
    rf"[^\r\n\p{{L}}\p{{N}}]?{word}{_SUFFIXES}?"
    for word in (f"{_UPPER}*{_LOWER}+", f"{_UPPER}+{_LOWER}*")
)
"""The words of OpenAI's o200k pattern: together they match every letter."""
_KNOWN = (
    _COVERING
    | _O200K
    | {f"'{suffix}" for suffix in ("s", "t", "re", "ve", "m", "ll", "d")}
    | {
        _SUFFIXES,
        r" ?\p{Ll}+",
        r"\p{N}",
        r"\p{N}+",
        r" ?\p{N}+",
        r"\p{N}{1,3}",
        r"\n",
        r"[^\s\p{L}\p{N}]+",
        r" ?[^\s\p{L}\p{N}]+",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
        r" ?[\p{P}\p{S}]+[\r\n]*",
        r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+""",
        "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
        r"\s*[\r\n]+",
        r"\s*[\r\n]",
        r"\s+(?!\S)",
        r"\s+",
    }
)
"""Alternatives of the patterns of GPT-2, Llama 3, Qwen, GPT-4o, DeepSeek and alike."""


@dataclass(frozen=True)
class Cuts:
    """Where texts are cut, and what the tokenizer puts around a whole one.

    Attributes:
        marks: special tokens to cut before.
        joints: whether to cut at joints too.
        before, after: ids put around a text when special tokens are asked for.
    """

    marks: tuple[str, ...]
    joints: bool
    before: tuple[int, ...]
    after: tuple[int, ...]

    def parts(self, text: str) -> list[str]:
        """The text in parts; equal beginnings of two texts are cut alike. None is empty."""
        ends = self._ends(text)
        if not self.joints:
            return [text[a:b] for a, b in pairwise(ends)]
        return [part for a, b in pairwise(ends) for part in _chunks(text, a, b)]

    def _ends(self, text: str) -> list[int]:
        ends = {0, len(text)}
        for mark in self.marks:
            at = text.find(mark)
            while at >= 0:
                ends.add(at)
                at = text.find(mark, at + len(mark))
        return sorted(ends)


def _chunks(text: str, start: int, end: int) -> Iterator[str]:
    while end - start > CHUNK_CHARACTERS:
        joint = _JOINT.search(text, start + CHUNK_CHARACTERS, end)
        if joint is None:
            break
        yield text[start : joint.end()]
        start = joint.end()
    yield text[start:end]


def find_cuts(backend: Any, candidates: Collection[str]) -> Cuts | None:
    """Where texts of a tokenizer may be cut; None if nowhere, or if we cannot tell.

    Args:
        backend: a `tokenizers.Tokenizer` without truncation and padding.
        candidates: special tokens worth cutting before; those that are unsafe are left out.
    """
    try:
        normalizer, pre_tokenizer = _state(backend.normalizer), _state(backend.pre_tokenizer)
        around = _around(_state(backend.post_processor))
    except Exception:  # parts written in Python cannot be serialised; they may do anything
        return None
    if around is None or backend.encode_special_tokens or not _deterministic(backend.model):
        return None
    added = list(backend.get_added_tokens_decoder().values())
    marks = tuple(sorted(filter(lambda mark: _stands_alone(mark, added), candidates)))
    joints = (
        _keeps_letters(normalizer)
        and _splits_at_joints(_steps(pre_tokenizer, "pretokenizers"))
        and not any(_may_cross_joint(token) for token in added)
    )
    return Cuts(marks, joints, *around) if marks or joints else None


def _state(part: Any) -> dict[str, Any] | None:
    """The tokenizer file's description of a part of the pipeline."""
    return None if part is None else json.loads(part.__getstate__())


def _steps(state: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    """A sequence's steps, nested ones unfolded; anything else is one step."""
    if state is None:
        return []
    if state["type"] != "Sequence":
        return [state]
    return [step for inner in state[name] for step in _steps(inner, name)]


def _deterministic(model: Any) -> bool:
    return not getattr(model, "dropout", None) and getattr(model, "nbest_size", None) in (
        None,
        0,
        1,
    )


def _around(
    post_processor: dict[str, Any] | None,
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Ids before and after a text with special tokens; None if it is not as simple as that."""
    found: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    for step in _steps(post_processor, "processors"):
        if step["type"] == "ByteLevel":  # moves offsets only
            continue
        if found != ((), ()):
            return None
        if step["type"] in ("BertProcessing", "RobertaProcessing"):
            found = ((step["cls"][1],), (step["sep"][1],))
        elif step["type"] == "TemplateProcessing":
            template = step["single"]
            texts = [i for i, piece in enumerate(template) if "Sequence" in piece]
            if len(texts) != 1:
                return None
            ids = [_template_ids(piece, step["special_tokens"]) for piece in template]
            found = (
                tuple(i for piece in ids[: texts[0]] for i in piece),
                tuple(i for piece in ids[texts[0] + 1 :] for i in piece),
            )
        else:
            return None
    return found


def _template_ids(piece: dict[str, Any], special_tokens: dict[str, Any]) -> list[int]:
    if "Sequence" in piece:
        return []
    ids: list[int] = special_tokens[piece["SpecialToken"]["id"]]["ids"]
    return ids


def _stands_alone(mark: str, added: Collection[Any]) -> bool:
    """Whether every occurrence of `mark` in a raw text is split off as that token.

    Added tokens are found from left to right, the longest first. Another one can hide `mark` only
    by containing it or by ending in its beginning.
    """
    token = next((token for token in added if token.content == mark), None)
    if token is None or token.normalized or token.single_word or token.lstrip:
        return False
    if mark[0] not in _PUNCTUATION or _overlap(mark, mark):
        return False
    others = (other.content for other in added if other.content != mark)
    return not any(mark in other or _overlap(other, mark) for other in others)


def _overlap(first: str, second: str) -> bool:
    """Whether a proper end of `first` is a proper beginning of `second`."""
    return second[0] in first[1:] and any(
        first.endswith(second[:n]) for n in range(1, min(len(first), len(second)))
    )


def _may_cross_joint(token: Any) -> bool:
    if token.lstrip or token.rstrip or token.single_word:
        return True
    normalized = unicodedata.normalize("NFC", token.content)
    return any(_JOINT.search(content) for content in (token.content, normalized))


def _keeps_letters(normalizer: dict[str, Any] | None) -> bool:
    """Whether normalising parts cut at joints is normalising the whole, letters staying letters."""
    return all(step["type"] == "NFC" for step in _steps(normalizer, "normalizers"))


def _splits_at_joints(steps: list[dict[str, Any]]) -> bool:
    """Whether the steps of a pre-tokenizer are all known, and one of them splits at joints."""
    splits = False
    for i, step in enumerate(steps):
        if step["type"] == "Split":
            pattern = step["pattern"].get("Regex")
            if pattern is None or step["behavior"] != "Isolated" or step["invert"]:
                return False
            alternatives = set(_alternatives(pattern))
            if not alternatives <= _KNOWN:
                return False
            splits |= bool(alternatives & _COVERING) or alternatives >= _O200K
        elif step["type"] == "ByteLevel":  # with `use_regex`, GPT-2's pattern first
            if step["add_prefix_space"] or i != len(steps) - 1:
                return False
            splits |= step["use_regex"]
        elif step["type"] != "Digits":
            return False
    return splits


def _alternatives(pattern: str) -> Iterator[str]:
    """What stands between the `|` of a regular expression that are in no bracket."""
    depth, start, in_class, escaped = 0, 0, False, False
    for i, character in enumerate(pattern):
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif in_class:
            in_class = character != "]"
        elif character == "[":
            in_class = True
        elif character in "()":
            depth += 1 if character == "(" else -1
        elif character == "|" and depth == 0:
            yield pattern[start:i]
            start = i + 1
    yield pattern[start:]
