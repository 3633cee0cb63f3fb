"""Log-probabilities of tokens, as the client asked for them: from the raw logits, natural log."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from shoal.kernels import Kernels
from shoal.sampling.host_logprobs import knows, row_logprobs
from shoal.sampling.rows import LogitRows
from shoal.types import Float32Array, Int32Array, Int64Array, LogprobColumns, TokenLogprob

NUM_PARTS = 4
"""What `best_logprobs` gives for some rows, in as many tensors."""
NUM_REPORTED_PARTS = NUM_PARTS + 1
"""The same of `reported_logprobs`."""
Named = Sequence[Sequence[int]]
"""Of some rows, the tokens that each names to have their logprobs; () where none names any."""
MAX_ELEMENTS = 1 << 24
"""Most logits worked on at once: bounds the float32 and float64 copies made of them."""


def rows_per_chunk(vocab_size: int) -> int:
    """How many rows of logits stay within `MAX_ELEMENTS`, at least 1."""
    return max(1, MAX_ELEMENTS // vocab_size)


def token_logprobs(
    logits: torch.Tensor, token_ids: Int32Array, nums: Int64Array, named: Named = ()
) -> list[TokenLogprob]:
    """One entry per row of `logits` [S, vocab]: the token's logprob and the row's `nums` best.

    Ties among the best are listed lowest id first. Computed by log-softmax in float32.

    Args:
        named: per row, further tokens whose logprobs are wanted; () if no row names any.
    """
    step = rows_per_chunk(logits.shape[1])
    found: list[TokenLogprob] = []
    for start in range(0, len(token_ids), step):
        rows = slice(start, start + step)
        found += _chunk_logprobs(logits[rows], token_ids[rows], nums[rows], named[rows])
    return found


def some_logprobs(
    rows: LogitRows,
    asked: Int64Array,
    token_ids: Int32Array,
    nums: Int64Array,
    named: Named,
    kernels: Kernels | None,
) -> list[TokenLogprob | None]:
    """The same [S] of the rows `asked`, int64, None for the others; [] if no row asks.

    Args:
        token_ids, nums: [S], of all rows; `named` are those of the rows `asked`.
        kernels: which compute them where they know the logits; else torch does.
    """
    if not len(asked):
        return []
    found: list[TokenLogprob | None] = [None] * len(nums)
    wanted, tokens, numbers = rows.take(asked), token_ids[asked], nums[asked]
    if kernels is not None and knows(kernels, rows):
        entries = _native_logprobs(wanted, tokens, numbers, named, kernels)
    else:
        entries = token_logprobs(wanted.tensor(), tokens, numbers, named)
    for row, entry in zip(asked.tolist(), entries, strict=True):
        found[row] = entry
    return found


def _native_logprobs(
    rows: LogitRows, token_ids: Int32Array, nums: Int64Array, named: Named, kernels: Kernels
) -> list[TokenLogprob]:
    found = row_logprobs(rows, np.arange(len(rows) + 1), token_ids, nums, kernels)
    parts = [found.logprob, found.rank, found.top_logprobs, found.top_ids]
    if named:
        values = rows.at(padded(named, len(rows))).double().numpy()
        parts.append((values - found.normalizer[:, None]).astype(np.float32))
    return listed(token_ids, nums, parts, named)


def _chunk_logprobs(
    logits: torch.Tensor, token_ids: Int32Array, nums: Int64Array, named: Named
) -> list[TokenLogprob]:
    index = torch.from_numpy(token_ids.astype(np.int64)).to(logits.device)
    wanted = torch.from_numpy(padded(named, len(token_ids))).to(logits.device)
    found = reported_logprobs(logits, index, int(nums.max(initial=0)), wanted)
    return listed(token_ids, nums, [part.cpu().numpy() for part in found], named)


def padded(named: Named, rows: int) -> Int64Array:
    """Token ids [rows, K] of the rows that name at most K, filled up with token 0."""
    ids = np.zeros((rows, max(map(len, named), default=0)), dtype=np.int64)
    for row, tokens in enumerate(named):
        ids[row, : len(tokens)] = tokens
    return ids


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


def reported_logprobs(
    logits: torch.Tensor, token_ids: torch.Tensor, num: int, named: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """The parts of `best_logprobs`, then the logprobs of further tokens, float32 [S, K].

    Args:
        named: int64 [S, K], within the vocabulary; K may be 0.
    """
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    return *described(logprobs, token_ids, num), logprobs.gather(1, named)


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
    if num == 0:
        return logprobs.new_empty((len(logprobs), 0), dtype=torch.int64)
    bits = (logprobs + 0.0).view(torch.int32)  # -0 becomes 0
    grows = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
    last = torch.arange(vocab - 1, -1, -1, device=logprobs.device)
    keys = torch.topk(grows * vocab + last, num, dim=-1).values
    return vocab - 1 - keys % vocab


def listed(
    token_ids: Int32Array,
    nums: Int64Array,
    parts: Sequence[npt.NDArray[np.generic]],
    named: Named = (),
) -> list[TokenLogprob]:
    """One entry per row, largest first, ties by id.

    Args:
        parts: what `best_logprobs` gave; where rows name tokens, `reported_logprobs`.
        named: see `token_logprobs`.
    """
    columns = columns_of(parts)
    further: list[tuple[tuple[int, float], ...]] = [()] * len(token_ids)
    if named:
        rows = zip(named, parts[NUM_PARTS].tolist(), strict=True)
        further = [tuple(zip(tokens, found, strict=False)) for tokens, found in rows]
    return [
        TokenLogprob(token, logprob, tuple(zip(best[:num], scores[:num], strict=True)), rank, pairs)
        for token, logprob, rank, num, best, scores, pairs in zip(
            token_ids.tolist(),
            columns.logprob.tolist(),
            columns.rank.tolist(),
            nums.tolist(),
            columns.top_ids.tolist(),
            columns.top_logprobs.tolist(),
            further,
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
