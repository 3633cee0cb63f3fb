"""How likely one of several choices is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class ChoiceScore:
    """How likely a choice is.

    Attributes:
        logprob: natural log of its probability after the context: the sum over its tokens.
        tokens: how many tokens it has.
        greedy: whether each of its tokens is the likeliest there, of equals the lowest id.
        probability: among the choices; None where probabilities are not asked for.
    """

    logprob: float
    tokens: int
    greedy: bool
    probability: float | None = None
