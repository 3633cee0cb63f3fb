"""What an engine that sends lines on is told: which they are, and how to read them again."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Protocol, TypeAlias, runtime_checkable

ReadLine: TypeAlias = "Callable[[int], tuple[str, dict[str, Any]]]"
"""A line's url and body by its number from 0. Raises `JobChangedError` if it is no longer there."""


@runtime_checkable
class SendsLines(Protocol):
    """An engine whose requests are lines as they were written, not token ids."""

    @property
    def model_names(self) -> Collection[str]:
        """What the servers call their models: further names for `body.model`."""

    def read_with(self, read: ReadLine) -> None:
        """Say how lines are read; before `run`."""
