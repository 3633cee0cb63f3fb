"""Sequences whose answers follow a grammar: where each is in it, and what may come next.

As with penalties, all is a function of a sequence's tokens before a position: one that is
preempted, or sampled again after a batch that failed, finds its place again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher

from shoal.answers.grammar import GrammarCompiler
from shoal.errors import InternalError, InvalidRequestError
from shoal.types import BoolArray, Int32Array, Int64Array


@dataclass(slots=True)
class _Place:
    """One sequence's place in its grammar.

    Attributes:
        outputs: its tokens.
        consumed: how many of them the matcher knows.
        end: the position of its first end of sequence, after which nothing is held to a grammar.
    """

    matcher: LLMatcher
    outputs: list[int] = field(default_factory=list)
    consumed: int = 0
    end: int | None = None

    def record(self, position: int, token: int, ends: frozenset[int]) -> None:
        """Set the output at `position`; what was recorded from there on is forgotten."""
        del self.outputs[position:]
        self.outputs.append(token)
        if self.end is not None and self.end >= position:
            self.end = None
        if self.end is None and token in ends:
            self.end = position

    def unknown(self, position: int) -> list[int]:
        """The tokens before `position` that the matcher has to be told."""
        if position > len(self.outputs):
            raise InternalError(
                f"position {position} of an answer asked for after {len(self.outputs)} tokens"
            )
        if position < self.consumed:
            self.matcher.reset()
            self.consumed = 0
        missing = self.outputs[self.consumed : position]
        self.consumed = position
        return missing


class GrammarRows:
    """The places of sequences in their grammars, by slot."""

    def __init__(self, compiler: GrammarCompiler | None) -> None:
        """`compiler`: None where no sequence has a grammar."""
        self._compiler = compiler
        self._places: dict[int, _Place] = {}

    def add(self, slot: int, grammar: str) -> None:
        """Begin an answer.

        Raises:
            InvalidRequestError: the grammar cannot be had, which validation finds out before.
        """
        if self._compiler is None:
            raise InternalError("a sequence has a grammar, and nothing to compile it with")
        self._places[slot] = _Place(self._compiler.matcher(grammar))

    def remove(self, slot: int) -> None:
        """Forget an answer, if there is one."""
        self._places.pop(slot, None)

    def record(self, slot: int, position: int, token: int) -> None:
        """Remember the token at a position of an answer."""
        assert self._compiler is not None
        self._places[slot].record(position, token, self._compiler.eos_token_ids)

    def fits(self, slots: Int64Array, positions: Int32Array, tokens: Int32Array) -> BoolArray:
        """Whether tokens may come next, bool [G]; False where only a mask tells.

        Much cheaper than a mask, where what was chosen without one is right most of the time.
        """
        matchers = self._matchers(slots, positions)
        right = [
            matcher is None or (token >= 0 and matcher.validate_tokens([token]) == 1)
            for matcher, token in zip(matchers, tokens.tolist(), strict=True)
        ]
        return np.array(right, dtype=np.bool_)

    def masks(
        self,
        rows: int,
        at: Int64Array,
        slots: Int64Array,
        positions: Int32Array,
        withheld: Sequence[Int64Array],
    ) -> Int32Array:
        """Which tokens may come next: int32 [rows, words], one bit per token, lowest first.

        Args:
            rows: how many there are; those that follow no grammar allow everything.
            at, slots, positions: int64, int64, int32 [G], those that do.
            withheld: G arrays of tokens that may not come yet, unless nothing else may.

        Raises:
            InvalidRequestError: an answer cannot be continued.
        """
        compiler = self._compiler
        assert compiler is not None
        masks = compiler.empty_masks(rows)
        found = zip(self._matchers(slots, positions), at.tolist(), strict=True)
        matchers = [(matcher, row) for matcher, row in found if matcher is not None]
        compiler.fill(matchers, masks)
        for matcher, _ in matchers:
            if matcher.is_error():
                raise _stuck(matcher.get_error())
        for row, tokens in zip(at.tolist(), withheld, strict=True):
            if len(tokens):
                _withhold(masks[row], tokens)
        return masks

    def _matchers(self, slots: Int64Array, positions: Int32Array) -> list[LLMatcher | None]:
        """What follows each answer, told of all before a position; None after its end."""
        matchers: list[LLMatcher | None] = []
        told: list[tuple[LLMatcher, int]] = []
        for slot, position in zip(slots.tolist(), positions.tolist(), strict=True):
            place = self._places[slot]
            if place.end is not None and place.end < position:
                matchers.append(None)
                continue
            matchers.append(place.matcher)
            missing = place.unknown(position)
            if len(missing) == 1:
                told.append((place.matcher, missing[0]))
            elif missing:
                place.matcher.consume_tokens(missing)
        if told:
            assert self._compiler is not None
            self._compiler.consume(told)
        return matchers


def _withhold(mask: npt.NDArray[np.int32], tokens: Int64Array) -> None:
    """Forbid tokens in a mask int32 [words], unless nothing would be left."""
    left = mask.copy()
    bits = (np.uint32(1) << (tokens % 32).astype(np.uint32)).view(np.int32)
    np.bitwise_and.at(left, tokens // 32, ~bits)
    if left.any():
        mask[:] = left


def _stuck(error: str) -> InvalidRequestError:
    first = (error.strip().splitlines() or [""])[0][:200]
    return InvalidRequestError(
        f"an answer could not be continued as its schema or grammar asks: {first}. Simplify it, or "
        "allow what the model's tokens can write.",
        code="structured_output_failed",
    )
