"""Log-probabilities of many tokens as columns: an object is made of one when it is looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import overload

import numpy as np
import numpy.typing as npt

from shoal.types.arrays import Int32Array
from shoal.types.completion import TokenLogprob

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class LogprobColumns:
    """What rows of logits say of a token each, and of the likeliest.

    Attributes:
        logprob: float32 [R], natural log.
        rank: int32 [R], how many tokens are as likely or likelier.
        top_ids: int32 [R, K], the likeliest tokens, of equals the lowest ids first.
        top_logprobs: float32 [R, K].
    """

    logprob: Float32Array
    rank: Int32Array
    top_ids: Int32Array
    top_logprobs: Float32Array

    def __len__(self) -> int:
        return len(self.logprob)

    def rows(self, first: int, last: int) -> LogprobColumns:
        """Rows [first, last), views."""
        return LogprobColumns(*(getattr(self, f.name)[first:last] for f in fields(self)))

    def likeliest(self, num: int) -> LogprobColumns:
        """The same with at most `num` of the likeliest tokens."""
        ids, logprobs = self.top_ids[:, :num], self.top_logprobs[:, :num]
        return LogprobColumns(self.logprob, self.rank, ids, logprobs)

    @classmethod
    def joined(cls, parts: Sequence[LogprobColumns]) -> LogprobColumns:
        """One after another, with as many of the likeliest as all have."""
        if not parts:
            none = np.zeros(0, dtype=np.float32)
            ids = none.astype(np.int32)
            return cls(none, ids, ids.reshape(0, 0), none.reshape(0, 0))
        num = min(part.top_ids.shape[1] for part in parts)
        alike = [part.likeliest(num) for part in parts]
        return cls(*(np.concatenate([getattr(p, f.name) for p in alike]) for f in fields(cls)))


class PromptLogprobs(Sequence[TokenLogprob]):
    """Log-probabilities of a prompt, an entry per token; those of its last tokens are known."""

    def __init__(self, token_ids: Int32Array, columns: LogprobColumns) -> None:
        """`token_ids`: int32 [T], the prompt. `columns`: of its last R tokens, R below T."""
        self._token_ids, self._columns = token_ids, columns

    def __len__(self) -> int:
        return len(self._token_ids)

    @overload
    def __getitem__(self, index: int) -> TokenLogprob: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[TokenLogprob, ...]: ...

    def __getitem__(self, index: int | slice) -> TokenLogprob | tuple[TokenLogprob, ...]:
        if isinstance(index, slice):
            return tuple(map(self._entry, range(*index.indices(len(self)))))
        return self._entry(range(len(self))[index])

    def __iter__(self) -> Iterator[TokenLogprob]:
        return map(self._entry, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]

    def _entry(self, position: int) -> TokenLogprob:
        token, columns = int(self._token_ids[position]), self._columns
        row = position - (len(self) - len(columns))
        if row < 0:
            return TokenLogprob(token, None)
        top = zip(columns.top_ids[row].tolist(), columns.top_logprobs[row].tolist(), strict=True)
        return TokenLogprob(token, float(columns.logprob[row]), tuple(top), int(columns.rank[row]))
