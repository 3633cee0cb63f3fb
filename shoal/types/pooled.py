"""Requests that give a vector, a score or classes: they generate nothing."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.types.request_params import RequestParams

EMBEDDINGS_URL = "/v1/embeddings"
SCORE_URL = "/v1/score"
RERANK_URL = "/v1/rerank"
CLASSIFY_URL = "/v1/classify"

POOLED_URLS = (EMBEDDINGS_URL, SCORE_URL, RERANK_URL, CLASSIFY_URL)
"""Endpoints, as vLLM names them, whose requests generate nothing."""

POOLED = RequestParams(max_tokens=1, temperature=0.0, ignore_eos=True, pooled=True)
"""How such a request runs: it ends where a token would be sampled, and its vector is read there."""


@dataclass(frozen=True)
class PoolingParams:
    """What is asked of a prompt's vector.

    Attributes:
        use_activation: of embeddings, whether they get length 1; of classes and scores, whether
            they become probabilities. None: as the model's files say.
        dimensions: numbers of an embedding that are kept, before it gets length 1; None: all.
    """

    use_activation: bool | None = None
    dimensions: int | None = None


@dataclass(frozen=True)
class PoolerConfig:
    """How an `LLM` makes vectors, where it is not to be what the model's files say.

    Attributes:
        pooling_type: "LAST" or "MEAN".
        seq_pooling_type: the same; vLLM has both names.
        use_activation, dimensions: of prompts whose `PoolingParams` leave them open.
    """

    pooling_type: str | None = None
    seq_pooling_type: str | None = None
    use_activation: bool | None = None
    dimensions: int | None = None
