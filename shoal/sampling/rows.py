"""Rows of logits picked from several tensors, without copying them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from shoal.types import Int64Array


@dataclass(frozen=True)
class LogitRows:
    """S rows of logits over one vocabulary.

    Attributes:
        parts: one or more tensors [*, vocab], of one dtype, on one device, each row contiguous.
        index: int64 [S], each row's number in the parts put one after another; rows may repeat.
    """

    parts: tuple[torch.Tensor, ...]
    index: Int64Array

    @classmethod
    def whole(cls, logits: torch.Tensor) -> LogitRows:
        """All rows of one tensor [S, vocab], in order."""
        logits = logits if logits.stride(-1) == 1 else logits.contiguous()
        return cls((logits,), np.arange(len(logits)))

    def __len__(self) -> int:
        return len(self.index)

    @property
    def shape(self) -> tuple[int, int]:
        """(S, vocab)."""
        return len(self.index), self.parts[0].shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Of the logits."""
        return self.parts[0].dtype

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.parts[0].device

    def take(self, index: Int64Array) -> LogitRows:
        """The rows at `index`, int64 [any]."""
        return LogitRows(self.parts, self.index[index])

    def tensor(self) -> torch.Tensor:
        """The rows as one tensor [S, vocab]; not to be written to, it may be a view."""
        first = self.parts[0]
        if len(self) and np.array_equal(self.index, np.arange(self.index[0], self.index[-1] + 1)):
            inside = int(self.index[-1]) < len(first)
            if inside:
                return first[int(self.index[0]) : int(self.index[-1]) + 1]
        rows = first if len(self.parts) == 1 else torch.cat(self.parts)
        return rows[torch.from_numpy(self.index).to(self.device)]

    def at(self, ids: Int64Array) -> torch.Tensor:
        """The logits of some tokens of each row, [S, K]; ids int64 [S, K]."""
        found = self.parts[0].new_empty(ids.shape)
        begin = 0
        for part in self.parts:
            mine = np.flatnonzero((self.index >= begin) & (self.index < begin + len(part)))
            rows = torch.from_numpy(self.index[mine] - begin)[:, None].to(part.device)
            tokens = torch.from_numpy(ids[mine]).to(part.device)
            found[torch.from_numpy(mine).to(part.device)] = part[rows, tokens]
            begin += len(part)
        return found

    def addresses(self) -> Int64Array:
        """Where each row begins in memory, int64 [S]; valid as long as the parts live."""
        rows = [
            part.data_ptr() + np.arange(len(part)) * (part.stride(0) * part.element_size())
            for part in self.parts
        ]
        found: Int64Array = np.concatenate(rows)[self.index]
        return found
