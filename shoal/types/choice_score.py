"""Choices that are scored, and how likely each of them is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Normalisation(StrEnum):
    """What probabilities are a softmax of."""

    sum = "sum"
    """Logprobs of whole choices: how likely each is, if it is one of them."""
    mean = "mean"
    """Logprobs per token: long choices are not the less likely for their length."""


@dataclass(frozen=True, slots=True)
class ScoredChoices:
    """Choices that requests score after one context, as the parameters of these requests.

    Attributes:
        texts: for records; empty where nobody writes any.
        lengths: how many tokens each choice has.
        requests: how many requests there are, neighbours in the table: one for all choices, or
            one for each.
    """

    texts: tuple[str, ...]
    lengths: tuple[int, ...]
    requests: int
    normalisation: Normalisation


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
