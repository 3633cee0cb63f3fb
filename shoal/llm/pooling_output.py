"""vLLM's outputs of models that do not generate."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from shoal.errors import InvalidRequestError
from shoal.types import Float32Array, Int32Array

T = TypeVar("T")


@dataclass(slots=True)
class PoolingOutput:
    """What `LLM.encode` gives of a prompt: float32 numbers, none where there is an error."""

    data: Float32Array


@dataclass(slots=True)
class EmbeddingOutput:
    """A prompt's vector."""

    data: Float32Array = field(repr=False)

    @property
    def embedding(self) -> list[float]:
        """The vector, a list made when it is asked for; empty where there is an error."""
        numbers: list[float] = self.data.tolist()
        return numbers

    @property
    def hidden_size(self) -> int:
        """Numbers in it."""
        return len(self.data)


@dataclass(slots=True)
class ClassificationOutput:
    """What a classification head says of a prompt."""

    data: Float32Array = field(repr=False)

    @property
    def probs(self) -> list[float]:
        """One number per class; empty where there is an error."""
        numbers: list[float] = self.data.tolist()
        return numbers

    @property
    def num_classes(self) -> int:
        """Classes there are."""
        return len(self.data)


@dataclass(slots=True)
class ScoringOutput:
    """How well a pair of texts goes together; 0 where there is an error."""

    score: float


@dataclass
class PoolingRequestOutput(Generic[T]):
    """What became of a prompt, or of a pair.

    Attributes:
        request_id: a number that no other request of the same `LLM` has.
        outputs: what was asked for.
        finished: always true.
        num_cached_tokens: always 0: what is shared is in the plan, see `LLM.last_run`.
        error: why there is nothing in `outputs`.
    """

    request_id: str = field(compare=False)
    outputs: T
    prompt_tokens: tuple[Int32Array, ...] = field(default=(), repr=False, compare=False)
    finished: bool = True
    num_cached_tokens: int = 0
    error: InvalidRequestError | None = None

    @property
    def prompt_token_ids(self) -> list[int]:
        """The tokens that were read; of a pair whose texts are prompts of their own, both's."""
        return [token for tokens in self.prompt_tokens for token in tokens.tolist()]


EmbeddingRequestOutput = PoolingRequestOutput[EmbeddingOutput]
ClassificationRequestOutput = PoolingRequestOutput[ClassificationOutput]
ScoringRequestOutput = PoolingRequestOutput[ScoringOutput]
