"""Prompts that begin with the same text but for white space, case or punctuation.

The prompts are read as words: white space only separates them, and where spelling is folded too,
case and the marks of prose are dropped. The forest of the words shows what would be shared if
each text were written in one way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from shoal.diagnose.finding import Example, Finding, FindingKind
from shoal.diagnose.hashing import UInt64Array, mix, powers, run_hashes
from shoal.diagnose.sample import Prompts, common_prefix, ends, ranges, requests_below
from shoal.diagnose.tokens import TokenTexts
from shoal.planner.forest import Forest, build_forest
from shoal.types import Int64Array

_LOOKED_AT = 32
"""Nodes examined for an example, those with the most tokens first, and members of each."""
_MEMBERS = 512
_SHOWN = 8
"""Tokens shown of a difference."""
_FOLDING_GAINS = 1.25
"""Folding case and punctuation must bring that much more than white space alone."""


@dataclass(frozen=True)
class _Words:
    """Prompts as words: `tokens` of `prompts` numbers the distinct ones.

    Attributes:
        first: int64 [words + 1], index of each word's first token in the prompts it is made of;
            white space belongs to the word after it, or to the prompt's last one.
    """

    prompts: Prompts
    first: Int64Array

    def tokens_of(self, forest: Forest, start: Int64Array, end: Int64Array) -> Int64Array:
        """Tokens that the words [start, end) of each node's path are written with."""
        offset = self.prompts.offsets[forest.request]
        tokens: Int64Array = self.first[offset + end] - self.first[offset + start]
        return tokens

    def computed(self, forest: Forest) -> int:
        """Prompt tokens to compute if every shared word were written as its node's request has it.

        Sequences compute the tokens of the words that they share with none.
        """
        shared = self.tokens_of(forest, forest.start, forest.end).sum()
        offset = self.prompts.offsets[:-1]
        end = np.append(forest.end, 0)[forest.request_node]
        own = self.first[self.prompts.offsets[1:]] - self.first[offset + end]
        return int(shared + (own * self.prompts.choices).sum())


def find_spellings(
    prompts: Prompts, texts: TokenTexts, text_index: Int64Array, saved: int
) -> Finding | None:
    """What it costs that one text is written in several ways; None when nothing.

    Args:
        texts, text_index: of the prompts' tokens, see `token_texts`.
        saved: tokens that the prompts save as they are.
    """
    found: list[Finding] = []
    for kind in (FindingKind.white_space, FindingKind.spelling):
        words = _as_words(prompts, texts, text_index, folded=kind is FindingKind.spelling)
        forest = build_forest(words.prompts.tokens, words.prompts.offsets, words.prompts.choices)
        gain = prompts.prompt_tokens - saved - words.computed(forest)
        least = found[0].cost_tokens * _FOLDING_GAINS if found else 0
        finding = _finding(prompts, words, forest) if gain > least else None
        if finding is not None:
            found.append(replace(finding, kind=kind, cost_tokens=gain))
    return found[-1] if found else None


def _as_words(
    prompts: Prompts, texts: TokenTexts, text_index: Int64Array, *, folded: bool
) -> _Words:
    value = (texts.folded if folded else texts.exact)[text_index]
    length = (texts.folded_length if folded else texts.exact_length)[text_index]
    begins = (length > 0) & texts.begins_word[text_index]
    begins[1:] |= (length[1:] > 0) & texts.ends_word[text_index[:-1]]
    begins[prompts.offsets[:-1]] = True
    head = np.flatnonzero(begins)
    in_word = np.repeat(np.arange(len(head)), np.diff(head, append=len(text_index)))
    before = np.cumsum(length) - length
    offset = before - before[head][in_word]
    word = np.add.reduceat(value * powers(int(offset.max()) + 1)[offset], head)
    size = np.add.reduceat(length, head)

    owner = np.repeat(np.arange(len(prompts)), prompts.lengths)[head]
    kept = size > 0
    wordless = np.bincount(owner[kept], minlength=len(prompts)) == 0
    kept[np.searchsorted(head, prompts.offsets[:-1][wordless])] = True
    identity = mix(word[kept] ^ mix(size[kept]))
    number = np.unique(identity, return_inverse=True)[1].reshape(-1).astype(np.int32)
    offsets = ends(np.bincount(owner[kept], minlength=len(prompts)))
    first = np.append(head[kept], len(text_index))
    first[offsets[:-1]] = prompts.offsets[:-1]
    return _Words(Prompts(prompts.request, number, offsets, prompts.choices), first)


def _finding(prompts: Prompts, words: _Words, forest: Forest) -> Finding | None:
    """An example from the node with the most tokens written anew; kind and cost are set later."""
    by_rank = np.argsort(forest.rank)
    members = requests_below(forest)
    length = words.tokens_of(forest, 0 * forest.end, forest.end)
    best, most = None, 0.0
    for node in np.argsort(-length * (forest.users - 1), kind="stable")[:_LOOKED_AT]:
        first, count = int(forest.first[node]), int(members[node])
        member = np.sort(by_rank[first : first + count : -(-count // _MEMBERS)])
        written = _written(words, member, int(forest.end[node]))
        distinct, one, each = np.unique(
            _hashes(prompts, member, written), return_index=True, return_counts=True
        )
        again = float(written.mean()) * (len(distinct) - 1)
        if again > most:
            usual = one[each.argmax()]
            others = one[one != usual][:_LOOKED_AT]
            best, most = (member[usual], member[others], count, len(distinct)), again
    if best is None:
        return None
    usual, others, count, variants = best
    start, other = min((common_prefix(prompts, int(usual), int(i)), int(i)) for i in others)
    examples = [
        Example(int(prompts.request[i]), start, min(start + _SHOWN, int(prompts.lengths[i])))
        for i in (usual, other)
    ]
    return Finding(
        kind=FindingKind.spelling,
        requests=count,
        variants=variants,
        examples=(examples[0], examples[1]),
        cost_tokens=0,
        exact=True,
    )


def _written(words: _Words, member: Int64Array, end: int) -> Int64Array:
    """Tokens of the first `end` words of some prompts."""
    offset = words.prompts.offsets[member]
    tokens: Int64Array = words.first[offset + end] - words.first[offset]
    return tokens


def _hashes(prompts: Prompts, member: Int64Array, length: Int64Array) -> UInt64Array:
    """Hashes of the first `length` tokens of some prompts."""
    tokens = prompts.tokens[ranges(prompts.offsets[member], length)]
    head = np.cumsum(length) - length
    hashes = run_hashes(mix(tokens), head, np.arange(len(tokens)) - np.repeat(head, length))
    return mix(hashes ^ mix(length))
