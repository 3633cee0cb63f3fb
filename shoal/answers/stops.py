"""Stop strings: found as text grows token by token, as if all of it were decoded each time."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.answers.detokenize import NO_CONTEXT, REPLACEMENT, Context, Detokenizer

_MARGIN = 16
"""Characters by which a window's beginning may differ from the same place in the whole text."""
_PATIENCE = 16
"""Tokens after which bytes that form no character are taken for wrong, not for incomplete."""


def find_stop(text: str, stops: Sequence[str], after: int = 0) -> tuple[int, int] | None:
    """Where the first stop string begins and ends; the shortest of those that begin there.

    Only occurrences that end beyond `after` characters count.
    """
    found = []
    for stop in stops:
        begin = text.find(stop, max(0, after + 1 - len(stop)))
        if begin >= 0:
            found.append((begin, begin + len(stop)))
    return min(found, default=None)


class StopSearch:
    """Watches one sequence's output for its stop strings.

    Only the last few tokens are decoded each time: a window that reaches further back than a new
    occurrence can begin. What it shows is then confirmed on the whole text. The window moves on
    at whole characters, because a decoder may render a run of bytes cut elsewhere as invalid.
    """

    def __init__(
        self,
        stops: Sequence[str],
        min_tokens: int,
        skip_special_tokens: bool,
        context: Context = NO_CONTEXT,
    ) -> None:
        """`context`: what came before the output; no stop string lies in it."""
        self.skip_special_tokens = skip_special_tokens
        self._context = context
        self._stops = stops
        self._min_tokens = min_tokens
        self._reach = max(map(len, stops)) + _MARGIN
        self._start = 0
        self._middle = 0
        self._shown = 0  # characters between the two
        self._complete = 0  # tokens when the text last ended in a whole character
        self._after = 0

    def window(self, ids: list[int]) -> tuple[list[int], Context]:
        """The tokens to decode for `advance`, and what to decode them after."""
        return ids[self._start :], NO_CONTEXT if self._start else self._context

    def advance(
        self, ids: list[int], window_text: str, detokenizer: Detokenizer
    ) -> tuple[int, int] | None:
        """Where the first stop string lies in the text of `ids`, if there is one.

        Call it once after each token, with the text of `window(ids)`. An occurrence counts when
        it is completed after the first `min_tokens` tokens.
        """
        found = None
        if len(ids) == self._min_tokens:
            text = detokenizer.text(ids, self.skip_special_tokens, self._context)
            self._after = len(text.rstrip(REPLACEMENT))
        elif len(ids) > self._min_tokens and any(stop in window_text for stop in self._stops):
            text = detokenizer.text(ids, self.skip_special_tokens, self._context)
            found = find_stop(text, self._stops, self._after)
        self._move(len(ids), window_text)
        return found

    def _move(self, count: int, window_text: str) -> None:
        if not window_text.endswith(REPLACEMENT):
            self._complete = count
        grown = len(window_text) - self._shown
        if grown >= self._reach and (self._complete == count or count - self._complete > _PATIENCE):
            self._start, self._middle, self._shown = self._middle, count, grown
