"""From vectors to completed requests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shoal.errors import InternalError, InvalidRequestError
from shoal.sampling.results import Sampled
from shoal.types import BoolArray, Completion, Int32Array, Int64Array, RequestTable, TokenLogprob


class VectorOutputs:
    """Completes each request with its vector; in the place of `OutputProcessor`."""

    def __init__(self, table: RequestTable) -> None:
        self._lengths = table.lengths
        self._request: dict[int, int] = {}
        """Of sequences whose vector comes."""
        self._done = np.zeros(len(table), dtype=np.bool_)
        self._ready: list[Completion] = []

    def add(self, sequence: int, request: int, choice: int) -> None:
        """Begin a request under a sequence id not in use; it has one choice."""
        if choice:
            raise InternalError("a request that generates nothing has several choices")
        self._request[sequence] = request

    def unknown(self, sequences: Int32Array) -> list[int]:
        """Those of some sequences that were not added."""
        return [sequence for sequence in sequences.tolist() if sequence not in self._request]

    def accept(self, sequences: Int32Array, sampled: Sampled) -> BoolArray:
        """Complete the requests of some sequences; all are finished: bool [S]."""
        if sampled.vectors is None:
            raise InternalError("a model that does not generate gave tokens")
        for sequence, vector in zip(sequences.tolist(), sampled.vectors, strict=True):
            request = self._request.pop(sequence)
            if not self._done[request]:
                # A copy: the batch's array would live as long as one of its rows.
                self._complete(Completion(request, self._tokens(request), (), vector=vector.copy()))
        return np.ones(len(sequences), dtype=np.bool_)

    def complete(self, sequences: Int32Array) -> None:
        """None ends without a vector."""
        if len(sequences):
            raise InternalError(f"sequences {sequences.tolist()} end without a vector")

    def has_prompt_logprobs(self, request: int) -> bool:
        """No request has any."""
        return False

    def set_prompt_logprobs(self, request: int, logprobs: Sequence[TokenLogprob]) -> None:
        """There are none."""
        raise InternalError(f"request {request}, which generates nothing, has logprobs")

    def fail(self, request: int, error: InvalidRequestError) -> None:
        """Complete a request with an error; does nothing if it is completed."""
        if not self._done[request]:
            self._complete(Completion(request, self._tokens(request), (), error))

    def unfinished(self, requests: Int64Array) -> Int64Array:
        """Those of some requests that are not completed."""
        return requests[~self._done[requests]]

    def take(self) -> list[Completion]:
        """The requests completed since the last call."""
        ready, self._ready = self._ready, []
        return ready

    def _tokens(self, request: int) -> int:
        return int(self._lengths[request])

    def _complete(self, completion: Completion) -> None:
        self._done[completion.request_index] = True
        self._ready.append(completion)
