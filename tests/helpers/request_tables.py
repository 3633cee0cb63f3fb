"""Request tables for tests."""

import numpy as np

from shoal.types import RequestParams, RequestTable


def table(requests, job_seed=0, lines=None):
    """One request per (prompt token ids, params, max_new_tokens)."""
    prompts = [np.asarray(prompt, dtype=np.int32) for prompt, _, _ in requests]
    params = [params for _, params, _ in requests]
    count = len(requests)
    limits = np.array([limit for _, _, limit in requests], dtype=np.int32)
    return RequestTable(
        tokens=np.concatenate(prompts),
        offsets=np.cumsum([0, *map(len, prompts)]).astype(np.int64),
        params=params,
        params_index=np.arange(count, dtype=np.int32),
        max_new_tokens=limits,
        expected_new_tokens=limits,
        seeds=np.array([p.seed or 0 for p in params], dtype=np.int64),
        has_seed=np.array([p.seed is not None for p in params]),
        line=np.arange(count) if lines is None else np.asarray(lines, dtype=np.int64),
        job_seed=job_seed,
    )


def one(prompt, max_new_tokens=16, **params):
    """A single request, for `table`."""
    return prompt, RequestParams(**params), max_new_tokens
