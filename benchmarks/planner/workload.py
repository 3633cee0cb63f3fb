"""Prompts of the scale benchmark: random token ids in prefix families, written to a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

_SEED = 20_260
VOCABULARY = 50_000
_FAMILY_REQUESTS = 100
_BRANCH_REQUESTS = 10
_CHUNK_REQUESTS = 1 << 16


@dataclass(frozen=True)
class Shape:
    """Tokens of every prompt: its family's, then its branch's, then its own."""

    requests: int
    family: int
    branch: int
    own: int

    @property
    def length(self) -> int:
        """Tokens of a prompt."""
        return self.family + self.branch + self.own

    @property
    def tokens(self) -> int:
        """Tokens of all prompts."""
        return self.requests * self.length

    @property
    def planned_saving(self) -> int:
        """What sharing the families and branches saves; chance adds a few tokens."""
        families = -(-self.requests // _FAMILY_REQUESTS)
        branches = -(-self.requests // _BRANCH_REQUESTS)
        return (self.requests - families) * self.family + (self.requests - branches) * self.branch


SHARED = {512: (300, 100), 128: (72, 24)}
"""Family's and branch's tokens by prompt length: 400 of 512, and 96 of 128."""


def default_length(requests: int) -> int:
    """512 tokens, above a million requests 128."""
    return 512 if requests <= 1_000_000 else 128


def shape_of(requests: int, length: int) -> Shape:
    """Prompts of one of the lengths in `SHARED`."""
    family, branch = SHARED[length]
    return Shape(requests, family, branch, own=length - family - branch)


def write_prompts(shape: Shape, path: Path) -> None:
    """Write the prompts, shuffled, as a two-dimensional .npy file of int32."""
    random = np.random.default_rng(_SEED)
    families = _random(random, -(-shape.requests // _FAMILY_REQUESTS), shape.family)
    branches = _random(random, -(-shape.requests // _BRANCH_REQUESTS), shape.branch)
    shuffled = random.permutation(shape.requests).astype(np.int32)
    header = np.lib.format.header_data_from_array_1_0(np.empty((0, 0), dtype=np.int32))
    header["shape"] = (shape.requests, shape.length)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for begin in range(0, shape.requests, _CHUNK_REQUESTS):
            request = shuffled[begin : begin + _CHUNK_REQUESTS]
            own = _random(random, len(request), shape.own)
            family = families[request // _FAMILY_REQUESTS]
            branch = branches[request // _BRANCH_REQUESTS]
            file.write(np.concatenate([family, branch, own], axis=1).tobytes())


def _random(random: np.random.Generator, rows: int, length: int) -> np.ndarray:
    return random.integers(0, VOCABULARY, (rows, length), dtype=np.int32)
