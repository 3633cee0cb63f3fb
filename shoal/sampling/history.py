"""Which tokens a sequence has seen, and how often: what penalties need."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shoal.errors import InternalError
from shoal.types import Int32Array, Int64Array

Float32Array = npt.NDArray[np.float32]


class TokenHistory:
    """The distinct tokens of one sequence with their counts in its output.

    A function of the recorded outputs and the position asked for: asking again for a position, or
    for an earlier one after an aborted iteration, gives the same answer.
    """

    def __init__(self, prompt: Int32Array) -> None:
        """`prompt` holds the prompt tokens that count as seen; empty if they do not."""
        self._prompt: Int64Array = np.unique(prompt).astype(np.int64)
        self._outputs: list[int] = []
        self._counted = 0
        self._restart()

    def at(self, position: int) -> tuple[Int64Array, Float32Array]:
        """Distinct token ids [K] before output `position`, and their counts [K] in the output.

        A token of the prompt alone has count 0. Both arrays are views, valid until the next call.

        Raises:
            InternalError: the output before `position` was never recorded.
        """
        if position > len(self._outputs):
            raise InternalError(
                f"output position {position} asked for after {len(self._outputs)} recorded tokens"
            )
        if position < self._counted:
            self._restart()
        for token in self._outputs[self._counted : position]:
            self._count(token)
        self._counted = position
        return self._ids[: self._size], self._counts[: self._size]

    def record(self, position: int, token: int) -> None:
        """Set the output at `position`; what was recorded from there on is forgotten."""
        self.at(min(position, self._counted))
        del self._outputs[position:]
        self._outputs.append(token)

    def _restart(self) -> None:
        self._ids = self._prompt.copy()
        self._counts: Float32Array = np.zeros(len(self._ids), dtype=np.float32)
        self._size = len(self._ids)
        self._counted = 0
        self._index: dict[int, int] = {}

    def _count(self, token: int) -> None:
        index = self._index.get(token)
        if index is None:
            index = self._index[token] = self._find_or_append(token)
        self._counts[index] += 1

    def _find_or_append(self, token: int) -> int:
        index = int(np.searchsorted(self._prompt, token))
        if index < len(self._prompt) and self._prompt[index] == token:
            return index
        if self._size == len(self._ids):
            room = max(16, self._size)
            self._ids = np.concatenate([self._ids, np.zeros(room, dtype=np.int64)])
            self._counts = np.concatenate([self._counts, np.zeros(room, dtype=np.float32)])
        self._ids[self._size] = token
        self._size += 1
        return self._size - 1
