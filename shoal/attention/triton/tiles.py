"""How large the tiles of the attention kernel are, by number format and head dimension."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Tiles:
    """Shapes of the kernel for one model.

    Attributes:
        rows: folded query rows of a high tile, a power of two.
        keys: keys of a step, a power of two.
        warps: per program.
        stages: of the software pipeline; loads run stages - 1 deep, block numbers first.
        programs: of the persistent grid, per multiprocessor.
        sideways: low tiles lie on their side, which suits the matrix units of 16-bit numbers.
        registers: most of a thread, so that so many programs fit; None: as many as it wants.
    """

    rows: int
    keys: int
    warps: int
    stages: int
    programs: int
    sideways: bool
    registers: int | None = None

    def shared_bytes(self, key_dim: int, value_dim: int, itemsize: int) -> int:
        """About what a program needs of shared memory: its queries, and two steps of keys."""
        step = self.keys * (key_dim + value_dim) * itemsize
        return self.rows * key_dim * itemsize + (self.stages - 1) * step


def halves(dim: int) -> tuple[int, int]:
    """Powers of two, at least 16, that hold a head dimension: one, or two where that wastes less.

    The second is 0 where there is none: 64 gives (64, 0), 80 (64, 16), 120 (128, 0).
    """
    whole = max(16, 1 << (dim - 1).bit_length())
    low = whole // 2
    high = max(16, 1 << max(dim - low - 1, 0).bit_length())
    return (low, high) if low >= 16 and low + high < whole else (whole, 0)


@dataclass(frozen=True)
class TilePair:
    """Tiles for a model's batches.

    Attributes:
        light: for batches that wait for memory; several programs share a multiprocessor, so that
            one loads while another computes or starts a task.
        heavy: for batches that compute: higher tiles read their keys from the L2 cache less often.
    """

    light: Tiles
    heavy: Tiles

    def choose(self, rows_per_key: float) -> Tiles:
        """The tiles for a batch of so many rows per key: the heavy ones if they would be full."""
        return self.heavy if rows_per_key >= self.heavy.rows else self.light


_HALF_PRECISION = {
    64: (Tiles(64, 64, 4, 3, 2, True), Tiles(128, 64, 8, 3, 1, True)),
    128: (Tiles(64, 64, 4, 3, 2, True), Tiles(128, 64, 8, 3, 1, True)),
    256: (Tiles(64, 32, 8, 3, 1, True),),
    576: (Tiles(32, 32, 8, 3, 1, True),),
}
_FLOAT32 = {
    64: (Tiles(32, 32, 4, 3, 4, False),),
    128: (Tiles(32, 32, 4, 3, 2, False),),
    256: (Tiles(16, 32, 4, 3, 1, False),),
    320: (Tiles(16, 16, 8, 3, 1, False),),
}
_FRUGAL = {2: Tiles(64, 16, 4, 3, 1, True), 4: Tiles(16, 16, 4, 3, 1, False)}
_FRUGAL_LATENT = Tiles(16, 16, 4, 3, 1, True)
"""Nowhere two stages: with them the kernel read beyond its memory on an H100 (Triton 3.6)."""


def choose_tiles(dtype: torch.dtype, key_dim: int, value_dim: int, shared_bytes: int) -> TilePair:
    """The table's tiles for a model, or smaller ones if the device has too little shared memory.

    Args:
        shared_bytes: that a program may have, at most.
    """
    table = _FLOAT32 if dtype == torch.float32 else _HALF_PRECISION
    dim = max(key_dim, value_dim)
    sizes = table[next(known for known in table if dim <= known)]
    fitting = [
        tiles
        for tiles in sizes
        if tiles.shared_bytes(key_dim, value_dim, dtype.itemsize) <= shared_bytes
    ] or [_FRUGAL[dtype.itemsize] if dim <= 256 else _FRUGAL_LATENT]
    return TilePair(fitting[0], fitting[-1])
