"""What a diagnosis says, as numbers; the words for it are the report's."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FindingKind(StrEnum):
    """What is wrong with the prompts."""

    varying_field = "varying_field"
    white_space = "white_space"
    spelling = "spelling"
    shuffled_chunks = "shuffled_chunks"


@dataclass(frozen=True)
class Example:
    """A prompt that shows it.

    Attributes:
        request: in the table.
        start, end: the prompt's tokens in which it differs from the other example.
    """

    request: int
    start: int
    end: int


@dataclass(frozen=True)
class Finding:
    """A way of writing prompts that keeps them from sharing.

    Attributes:
        requests: those concerned.
        variants: different texts where there could be one.
        examples: two prompts that differ and need not.
        cost_tokens: prompt tokens that the run need not compute if it were put right, over all
            sequences; also the gain to expect.
        exact: computed on all requests concerned; otherwise on a part and scaled.
    """

    kind: FindingKind
    requests: int
    variants: int
    examples: tuple[Example, Example]
    cost_tokens: int
    exact: bool

    @property
    def offset(self) -> int:
        """Tokens that the two examples have in common before they first differ."""
        return self.examples[0].start
