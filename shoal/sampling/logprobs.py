"""Log-probabilities of tokens, as the client asked for them: from the raw logits, natural log."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from shoal.sampling.history import Float32Array
from shoal.types import Int32Array, Int64Array, LogprobColumns, TokenLogprob

NUM_PARTS = 4
"""What `best_logprobs` gives for some rows, in as many tensors."""
MAX_ELEMENTS = 1 << 24
"""Most logits worked on at once: bounds the float32 and float64 copies made of them."""


def rows_per_chunk(vocab_size: int) -> int:
    """How many rows of logits stay within `MAX_ELEMENTS`, at least 1."""
    return max(1, MAX_ELEMENTS // vocab_size)


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
    index = torch.from_numpy(token_ids.astype(np.int64)).to(logits.device)
    found = best_logprobs(logits, index, int(nums.max(initial=0)))
    return listed(token_ids, nums, [part.cpu().numpy() for part in found])


def best_logprobs(
    logits: torch.Tensor, token_ids: torch.Tensor, num: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logprobs where the logits are, [S, vocab], of at most `rows_per_chunk` rows.

    Args:
        token_ids: int64 [S], within the vocabulary.

    Returns:
        `NUM_PARTS` tensors: the tokens' logprobs, float32 [S]; how many tokens are as likely or
        likelier, int64 [S]; the `num` largest of each row, float32 [S, num], and their ids,
        int64 [S, num], of equals those of the lowest ids.
    """
    return described(torch.log_softmax(logits.float(), dim=-1), token_ids, num)


def described(
    logprobs: torch.Tensor, token_ids: torch.Tensor, num: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """What `best_logprobs` gives, from log-probabilities, float32 [S, vocab]."""
    own = logprobs.gather(1, token_ids[:, None])
    ranks = (logprobs >= own).sum(dim=-1)
    best = _best(logprobs, min(num, logprobs.shape[1]))
    return own[:, 0], ranks, logprobs.gather(1, best), best


def _best(logprobs: torch.Tensor, num: int) -> torch.Tensor:
    """The ids [S, num] of the largest, of equals the lowest.

    Which of equals `torch.topk` takes depends on `num`, and so on what else is asked for in a
    batch. Here no two are equal: the bits of a float, as a whole number that grows with it, come
    first, then the id.
    """
    vocab = logprobs.shape[1]
    bits = (logprobs + 0.0).view(torch.int32)  # -0 becomes 0
    grows = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
    last = torch.arange(vocab - 1, -1, -1, device=logprobs.device)
    keys = torch.topk(grows * vocab + last, num, dim=-1).values
    return vocab - 1 - keys % vocab


def listed(
    token_ids: Int32Array, nums: Int64Array, parts: Sequence[npt.NDArray[np.generic]]
) -> list[TokenLogprob]:
    """One entry per row from the parts that `best_logprobs` gave, largest first, ties by id."""
    found = columns_of(parts)
    return [
        TokenLogprob(token, logprob, tuple(zip(best[:num], scores[:num], strict=True)), rank)
        for token, logprob, rank, num, best, scores in zip(
            token_ids.tolist(),
            found.logprob.tolist(),
            found.rank.tolist(),
            nums.tolist(),
            found.top_ids.tolist(),
            found.top_logprobs.tolist(),
            strict=True,
        )
    ]


def columns_of(parts: Sequence[npt.NDArray[np.generic]]) -> LogprobColumns:
    """The parts that `best_logprobs` gave, the likeliest of each row first, ties by id."""
    values: Float32Array = parts[2].astype(np.float32, copy=False)
    order = np.lexsort((parts[3], -values), axis=-1)
    return LogprobColumns(
        logprob=parts[0].astype(np.float32, copy=False),
        rank=parts[1].astype(np.int32),
        top_ids=np.take_along_axis(parts[3], order, axis=-1).astype(np.int32),
        top_logprobs=np.take_along_axis(values, order, axis=-1),
    )
