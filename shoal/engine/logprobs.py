"""Log-probabilities of tokens, as the client asked for them: from the raw logits, natural log."""

from __future__ import annotations

import numpy as np
import torch

from shoal.types import Int32Array, Int64Array, TokenLogprob

MAX_ELEMENTS = 1 << 24
"""Most logits worked on at once: bounds the float32 and float64 copies made of them."""


def rows_per_chunk(vocab_size: int) -> int:
    """How many rows of logits stay within `MAX_ELEMENTS`, at least 1."""
    return max(1, MAX_ELEMENTS // vocab_size)


def prompt_logprobs(logits: torch.Tensor, next_tokens: Int32Array, num: int) -> list[TokenLogprob]:
    """What the model thought of each token that followed.

    Args:
        logits: [T, vocab], any float dtype and device.
        next_tokens: int32 [T], the token that came after each row.
        num: how many most likely tokens to list per row.
    """
    return token_logprobs(logits, next_tokens, np.full(len(next_tokens), num, dtype=np.int64))


def token_logprobs(
    logits: torch.Tensor, token_ids: Int32Array, nums: Int64Array
) -> list[TokenLogprob]:
    """One entry per row of `logits` [S, vocab]: the token's logprob and the row's `nums` best.

    Ties among the best are listed lowest id first. Computed by log-softmax in float32.
    """
    step = rows_per_chunk(logits.shape[1])
    found: list[TokenLogprob] = []
    for start in range(0, len(token_ids), step):
        rows = slice(start, start + step)
        found += _chunk_logprobs(logits[rows], token_ids[rows], nums[rows])
    return found


def _chunk_logprobs(
    logits: torch.Tensor, token_ids: Int32Array, nums: Int64Array
) -> list[TokenLogprob]:
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    index = torch.from_numpy(token_ids.astype(np.int64)).to(logits.device)
    own = logprobs.gather(1, index[:, None])[:, 0].tolist()
    values, ids = _best(logprobs, int(nums.max(initial=0)))
    return [
        TokenLogprob(token, logprob, tuple(zip(best[:num], scores[:num], strict=True)))
        for token, logprob, num, best, scores in zip(
            token_ids.tolist(), own, nums.tolist(), ids, values, strict=True
        )
    ]


def _best(logprobs: torch.Tensor, num: int) -> tuple[list[list[float]], list[list[int]]]:
    """The `num` largest per row, largest first, ties by id."""
    best = torch.topk(logprobs, min(num, logprobs.shape[1]), dim=-1)
    values, ids = best.values.cpu().numpy(), best.indices.cpu().numpy()
    order = np.lexsort((ids, -values), axis=-1)
    return (
        np.take_along_axis(values, order, axis=-1).tolist(),
        np.take_along_axis(ids, order, axis=-1).tolist(),
    )
