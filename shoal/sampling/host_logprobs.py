"""Log-probabilities of rows on a CPU, in C++: a row is read in place, nothing is made of it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from shoal.kernels import Isa, Kernels
from shoal.kernels.interface import DTYPES, Logprobs
from shoal.sampling.rows import LogitRows
from shoal.types import Float32Array, Int32Array, Int64Array


@dataclass(frozen=True)
class RowLogprobs:
    """What R rows say of M tokens, and of their likeliest.

    Attributes:
        logprob: float32 [M], natural log; NaN where a row's logits are no numbers.
        rank: int32 [M], how many tokens of the row are as likely or likelier.
        top_ids: int32 [R, K], the likeliest first, of equals the lowest id; 0 beyond what was
            asked for.
        top_logprobs: float32 [R, K]; -infinity beyond what was asked for.
        normalizer: float64 [R]; the logprob of any token is its logit less this.
    """

    logprob: Float32Array
    rank: Int32Array
    top_ids: Int32Array
    top_logprobs: Float32Array
    normalizer: npt.NDArray[np.float64]


def knows(kernels: Kernels | None, logits: torch.Tensor | LogitRows) -> bool:
    """Whether the kernels can read these logits."""
    return kernels is not None and logits.device.type == "cpu" and logits.dtype in DTYPES


def row_logprobs(
    rows: LogitRows,
    offsets: Int64Array,
    targets: Int32Array,
    nums: Int64Array,
    kernels: Kernels,
    isa: Isa | None = None,
) -> RowLogprobs:
    """Logprobs by log-softmax of the raw logits, in float32.

    Args:
        rows: R rows that the kernels know; left unchanged.
        offsets: int64 [R + 1]; a row's targets are [its offset, the next one's).
        targets: int32 [M] tokens, within the vocabulary.
        nums: int64 [R], how many of the likeliest to list.
        isa: an instruction set below the machine's best, for tests.
    """
    count, vocab = rows.shape
    nums = np.minimum(nums, vocab).astype(np.int64)
    most = int(nums.max(initial=0))
    found = RowLogprobs(
        np.empty(len(targets), dtype=np.float32),
        np.empty(len(targets), dtype=np.int32),
        np.zeros((count, most), dtype=np.int32),
        np.full((count, most), -np.inf, dtype=np.float32),
        np.empty(count, dtype=np.float64),
    )
    addresses = rows.addresses()
    offsets, targets = np.ascontiguousarray(offsets), np.ascontiguousarray(targets)
    call = Logprobs(
        dtype=DTYPES[rows.dtype],
        isa=kernels.isa if isa is None else isa,
        threads=torch.get_num_threads(),
        rows=count,
        vocab=vocab,
        logits=addresses.ctypes.data,
        offsets=offsets.ctypes.data,
        targets=targets.ctypes.data,
        nums=nums.ctypes.data,
        most=most,
        logprob=found.logprob.ctypes.data,
        rank=found.rank.ctypes.data,
        best=found.top_ids.ctypes.data,
        best_logprob=found.top_logprobs.ctypes.data,
        normalizer=found.normalizer.ctypes.data,
    )
    kernels.lib.shoal_logprobs(ctypes.byref(call))
    return found
