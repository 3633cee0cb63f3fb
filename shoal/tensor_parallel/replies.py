"""What the other processes tell the first: how it went."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch


class Outcome(IntEnum):
    """How an order went."""

    done = 0
    failed = 1
    """It raised; the process is in step and goes on."""
    out_of_memory = 2
    """As `failed`, for want of device memory."""
    lost = 3
    """The process cannot go on, and ends."""


@dataclass(frozen=True)
class Answer:
    """An outcome, and an error's text."""

    outcome: Outcome
    text: str = ""

    def encode(self) -> bytes:
        """One byte, then the text."""
        return bytes([self.outcome]) + self.text.encode()

    @classmethod
    def decode(cls, data: bytes) -> Answer:
        """The inverse of `encode`."""
        return cls(Outcome(data[0]), data[1:].decode())

    @classmethod
    def of(cls, error: BaseException, *, lost: bool = False) -> Answer:
        """The answer after an error."""
        text = f"{type(error).__name__}: {error}"
        if lost:
            return cls(Outcome.lost, text)
        memory = isinstance(error, torch.OutOfMemoryError)
        return cls(Outcome.out_of_memory if memory else Outcome.failed, text)
