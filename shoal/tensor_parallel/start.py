"""What a process is told first."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.model.description import ModelDescription


@dataclass(frozen=True)
class Start:
    """Its part in a model.

    Attributes:
        rank: its place among the processes; the first, which started it, is 0.
        port: of the store by which they find each other.
        description: the model.
    """

    rank: int
    port: int
    description: ModelDescription
