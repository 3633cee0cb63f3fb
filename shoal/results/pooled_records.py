"""The bodies of records of requests that generate nothing, as OpenAI and vLLM write them."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from typing import Any

from shoal.errors import InternalError
from shoal.pooling import finished, label_of
from shoal.requests.pooled_bodies import PooledBodies, PooledBody
from shoal.types import (
    CLASSIFY_URL,
    EMBEDDINGS_URL,
    RERANK_URL,
    Completion,
    Float32Array,
)


class PooledRecords:
    """Writes them for one model.

    Args:
        model: what answers name.
    """

    def __init__(self, bodies: PooledBodies, model: str) -> None:
        self._bodies, self._model = bodies, model

    def body(
        self, key: str, url: str, given: dict[str, Any], prompts: Sequence[Completion]
    ) -> dict[str, Any]:
        """The body of a record.

        Args:
            key: of the line, for its id.
            given: the body that the line has.
            prompts: the completion of each of its prompts, in order, none of them an error.
        """
        present = {name: value for name, value in given.items() if value is not None}
        asked = self._bodies.read(url, present)
        vectors = [_vector(prompt) for prompt in prompts]
        tokens = sum(prompt.prompt_tokens for prompt in prompts)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        if url == RERANK_URL:
            results = self._reranked(asked, vectors)
            return {"id": f"score-{key}", "model": self._model, "usage": usage, "results": results}
        if url == EMBEDDINGS_URL:
            prefix, data = "embd", self._embeddings(asked, vectors)
        elif url == CLASSIFY_URL:
            prefix, data = "classify", self._classes(asked, vectors)
        else:
            prefix, data = "score", self._scores(asked, vectors)
        return {
            "id": f"{prefix}-{key}",
            "object": "list",
            "created": int(time.time()),
            "model": self._model,
            "data": data,
            "usage": usage,
        }

    def _embeddings(
        self, asked: PooledBody, vectors: Sequence[Float32Array]
    ) -> list[dict[str, Any]]:
        found = [finished(vector, self._bodies.pooling, asked.params) for vector in vectors]
        return [
            {
                "object": "embedding",
                "index": index,
                "embedding": _in_base64(vector) if asked.base64 else vector,
            }
            for index, vector in enumerate(found)
        ]

    def _classes(self, asked: PooledBody, vectors: Sequence[Float32Array]) -> list[dict[str, Any]]:
        pooling = self._bodies.pooling
        found = [finished(vector, pooling, asked.params) for vector in vectors]
        return [
            {
                "index": index,
                "label": label_of(probs, pooling),
                "probs": probs,
                "num_classes": len(probs),
            }
            for index, probs in enumerate(found)
        ]

    def _scores(self, asked: PooledBody, vectors: Sequence[Float32Array]) -> list[dict[str, Any]]:
        scores = self._bodies.scoring.scores(vectors, len(asked.first), asked.params)
        return [
            {"index": index, "object": "score", "score": score}
            for index, score in enumerate(scores)
        ]

    def _reranked(self, asked: PooledBody, vectors: Sequence[Float32Array]) -> list[dict[str, Any]]:
        """The documents, most relevant first; equal ones as they came."""
        scores = self._bodies.scoring.scores(vectors, len(asked.first), asked.params)
        order = sorted(range(len(scores)), key=lambda index: -scores[index])
        return [
            {
                "index": index,
                "document": {"text": asked.second[index], "multi_modal": None},
                "relevance_score": scores[index],
            }
            for index in order[: asked.top_n or None]
        ]


def _vector(prompt: Completion) -> Float32Array:
    if prompt.vector is None:
        raise InternalError(f"request {prompt.request_index} is complete without a vector")
    return prompt.vector


def _in_base64(vector: Float32Array) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
