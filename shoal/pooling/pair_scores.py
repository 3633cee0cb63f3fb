"""Scores of pairs of texts: which prompts they take, and what is made of their vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal.errors import InvalidRequestError
from shoal.model.pooling import Pooling, Task
from shoal.pooling.pairs import PairTexts, pairs_of
from shoal.pooling.vectors import finished
from shoal.types import Float32Array, PoolingParams


@dataclass(frozen=True)
class Scoring:
    """Scores of one model.

    Embeddings are compared by their cosine: each text is a prompt. Otherwise each pair is one.
    """

    pooling: Pooling
    texts: PairTexts

    @property
    def special_tokens(self) -> bool:
        """Whether the tokenizer adds its own to the prompts."""
        return self.pooling.task is Task.embed or not self.texts.templated

    def check(self, where: str) -> None:
        """Refuse a model that gives classes and no score.

        Raises:
            InvalidRequestError: it does; `param` is `where`.
        """
        if len(self.pooling.labels) > 1:
            raise InvalidRequestError(
                f"{where}: the model tells {len(self.pooling.labels)} classes apart, and a score "
                "is one number; ask for /v1/classify (LLM.classify).",
                code="unsupported_parameter",
                param=where,
            )

    def prompts(
        self,
        first: Sequence[str],
        second: Sequence[str],
        kwargs: Mapping[str, Any],
        where: str,
    ) -> list[str]:
        """The prompts to run.

        Args:
            where: what errors call the second texts.

        Raises:
            ValueError: see `pairs_of`.
            InvalidRequestError: the template refuses a pair.
        """
        pairs = pairs_of(first, second)
        if self.pooling.task is Task.embed:
            return [*first, *second]
        several = len(pairs) > 1
        return [
            self.texts.text(*pair, kwargs, f"{where}[{i}]" if several else where)
            for i, pair in enumerate(pairs)
        ]

    def scores(
        self, vectors: Sequence[Float32Array], num_first: int, params: PoolingParams
    ) -> list[float]:
        """One score per pair.

        Args:
            vectors: of the prompts, in order.
            num_first: how many first texts there are.
        """
        done = [finished(vector, self.pooling, params) for vector in vectors]
        if self.pooling.task is not Task.embed:
            return [float(score[0]) for score in done]
        first, second = done[:num_first], done[num_first:]
        of_pair = [0] * len(second) if num_first == 1 else range(num_first)
        return [_cosine(first[i], vector) for i, vector in zip(of_pair, second, strict=True)]

    def parts(self, pair: int, num_first: int) -> tuple[int, ...]:
        """The prompts that a pair's score is made of, by index."""
        if self.pooling.task is not Task.embed:
            return (pair,)
        return (pair if num_first > 1 else 0, num_first + pair)


def _cosine(a: Float32Array, b: Float32Array) -> float:
    x, y = a.astype(np.float64), b.astype(np.float64)
    # As torch's cosine_similarity.
    lengths = [max(float(np.linalg.norm(each)), 1e-8) for each in (x, y)]
    return float(x @ y) / (lengths[0] * lengths[1])
