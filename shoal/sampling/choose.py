"""Choosing a token per row of logits: the likeliest, or one drawn. In C++ where it can be.

On a CPU with the kernels, for float32 and bfloat16 logits, `csrc/sampling/` reads the logits in
place; elsewhere torch does it (`draw`). Either way a row's token depends on that row's
logits and settings alone, bit for bit. The two agree on greedy rows always. On drawn rows they sum
the same weights with other roundings (about 1e-7 of the mass), so they differ where the uniform
number, or the edge of top-p, falls that close to the border between two tokens.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from shoal.kernels import Isa, Kernels
from shoal.kernels.interface import DTYPES, Sample
from shoal.sampling.draw import DrawParams, Kinds, draw
from shoal.sampling.logprobs import rows_per_chunk
from shoal.sampling.processors import deny
from shoal.sampling.rows import LogitRows
from shoal.types import BoolArray, Int32Array, Int64Array

UNSOUND = -1
"""Instead of a token: the row's logits are no numbers."""


@dataclass(frozen=True)
class Settings:
    """How to choose for each of S rows, contiguous columns [S].

    Attributes:
        temperature: float32; 0 takes the largest logit, among equals the lowest id.
        min_p, top_k, top_p, uniforms: see `DrawParams`; without effect at temperature 0.
    """

    temperature: npt.NDArray[np.float32]
    min_p: npt.NDArray[np.float32]
    top_k: Int64Array
    top_p: npt.NDArray[np.float64]
    uniforms: npt.NDArray[np.float64]

    def rows(self, index: Int64Array) -> Settings:
        """The rows at `index`."""
        return Settings(
            self.temperature[index],
            self.min_p[index],
            self.top_k[index],
            self.top_p[index],
            self.uniforms[index],
        )

    @property
    def drawn(self) -> BoolArray:
        """Which rows are drawn at all, bool [S]."""
        drawn: BoolArray = self.temperature > 0
        return drawn

    def ranked(self, vocab_size: int) -> BoolArray:
        """Which rows are drawn with top-k or top-p, so that tokens' ranks matter, bool [S]."""
        ranked: BoolArray = self.drawn & ((self.top_k < vocab_size) | (self.top_p < 1))
        return ranked


def choose(
    rows: LogitRows,
    settings: Settings,
    kernels: Kernels | None,
    isa: Isa | None = None,
    allowed: Int32Array | None = None,
) -> Int32Array:
    """A token per row, int32 [S], `UNSOUND` where a logit is NaN or the largest is infinite.

    Args:
        rows: left unchanged.
        kernels: None, or logits the kernels do not know: torch is used.
        isa: an instruction set below the machine's best, for tests.
        allowed: int32 [S, words], contiguous, one bit per token, lowest first: a token whose bit
            is not set counts as of logit -infinity. None: every token may come.
    """
    if kernels is not None and rows.device.type == "cpu" and rows.dtype in DTYPES:
        return _choose_native(rows, settings, kernels, kernels.isa if isa is None else isa, allowed)
    # Greedy rows need no copies, where everything may come.
    copied = settings.temperature.any() or allowed is not None
    step = rows_per_chunk(rows.shape[1]) if copied else max(1, len(rows))
    tokens = [np.zeros(0, np.int32)]
    for at in range(0, len(rows), step):
        chunk = np.arange(at, min(at + step, len(rows)))
        logits = rows.take(chunk).tensor()
        if allowed is not None:
            logits = logits.to(torch.float32, copy=True).contiguous()
            deny(logits, allowed[chunk])
        tokens.append(_choose_torch(logits, settings.rows(chunk)))
    return np.concatenate(tokens)


def _choose_native(
    rows: LogitRows,
    settings: Settings,
    kernels: Kernels,
    isa: Isa,
    allowed: Int32Array | None,
) -> Int32Array:
    tokens = np.empty(len(rows), dtype=np.int32)
    addresses = rows.addresses()
    call = Sample(
        dtype=DTYPES[rows.dtype],
        isa=isa,
        threads=torch.get_num_threads(),
        rows=len(rows),
        vocab=rows.shape[1],
        logits=addresses.ctypes.data,
        temperature=settings.temperature.ctypes.data,
        min_p=settings.min_p.ctypes.data,
        top_k=settings.top_k.ctypes.data,
        top_p=settings.top_p.ctypes.data,
        uniform=settings.uniforms.ctypes.data,
        allowed=None if allowed is None else allowed.ctypes.data,
        tokens=tokens.ctypes.data,
    )
    kernels.lib.shoal_sample(ctypes.byref(call))
    return tokens


def _choose_torch(logits: torch.Tensor, settings: Settings) -> Int32Array:
    best = logits.max(dim=-1)
    sound = best.values.isfinite().cpu().numpy()
    tokens = best.indices
    random = np.flatnonzero((settings.temperature > 0) & sound)
    if len(random):
        index = torch.from_numpy(random).to(logits.device)
        picked = logits if len(random) == len(logits) else logits[index]
        drawn = settings.rows(random)
        truncated = torch.from_numpy(np.flatnonzero(drawn.ranked(logits.shape[1]))).to(
            logits.device
        )
        kinds = Kinds(bool((drawn.min_p > 0).any()), truncated)
        tokens[index] = draw(picked.float(), _draw_params(drawn, logits.device), kinds)
    chosen: Int32Array = np.where(sound, tokens.cpu().numpy(), UNSOUND).astype(np.int32)
    return chosen


def _draw_params(settings: Settings, device: torch.device) -> DrawParams:
    columns = settings.temperature, settings.min_p, settings.top_k, settings.top_p
    return DrawParams(*(torch.from_numpy(c).to(device) for c in (*columns, settings.uniforms)))
