"""The plan of a run: its segments, its sequences and their order. Data only."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from shoal.config import Order, Sharing
from shoal.errors import JobError
from shoal.types import Int32Array

_FORMAT = "shoal-plan-1"


@dataclass(frozen=True, eq=False)
class Plan:
    """What to compute once, for whom, and in which order.

    A sequence is one choice of one request. Its prompt is the tokens of its segments, from the
    top down, then what its own request adds: possibly nothing, then the first logits come from
    the last position of its last segment.

    Segments come in preorder of the order to run, so parents before children; those who use one
    are neighbours.

    Attributes:
        segment_parent: int32 [S], the segment before it, -1: none.
        segment_start: int32 [S], tokens before it: 0, or where the parent ends.
        segment_length: int32 [S], its tokens, at least 1.
        segment_request: int32 [S], a request whose prompt[start:start + length] are its tokens.
        segment_first, segment_last: int32 [S], its users are the sequences [first, last), at
            least 2.
        sequence_request, sequence_choice: int32 [Q], in the order to run; the choices of a
            request are neighbours, from 0.
        sequence_segment: int32 [Q], the last segment it uses, -1: none.
        sharing, order: how the plan was made.
        prompt_tokens: prompt lengths summed over the sequences.
        computed_prompt_tokens: those of them that the run computes.
    """

    segment_parent: Int32Array
    segment_start: Int32Array
    segment_length: Int32Array
    segment_request: Int32Array
    segment_first: Int32Array
    segment_last: Int32Array
    sequence_request: Int32Array
    sequence_choice: Int32Array
    sequence_segment: Int32Array
    sharing: Sharing
    order: Order
    prompt_tokens: int
    computed_prompt_tokens: int

    @property
    def num_segments(self) -> int:
        """Shared segments, at all levels."""
        return len(self.segment_parent)

    @property
    def num_sequences(self) -> int:
        """Sequences: the choices of all requests."""
        return len(self.sequence_request)

    @property
    def saved_prompt_tokens(self) -> int:
        """Prompt tokens that the run need not compute."""
        return self.prompt_tokens - self.computed_prompt_tokens

    @property
    def segment_users(self) -> Int32Array:
        """Sequences that use each segment, int32 [S]."""
        return self.segment_last - self.segment_first

    @property
    def segment_end(self) -> Int32Array:
        """Tokens up to the end of each segment, int32 [S]."""
        return self.segment_start + self.segment_length

    @property
    def shared_length(self) -> Int32Array:
        """Prompt tokens of each sequence that its segments hold, int32 [Q]."""
        return np.append(self.segment_end, np.int32(0))[self.sequence_segment]

    def shared_length_of(self, sequence: int) -> int:
        """`shared_length` of one sequence."""
        segment = int(self.sequence_segment[sequence])
        return 0 if segment < 0 else int(self.segment_start[segment] + self.segment_length[segment])

    @property
    def groups(self) -> Int32Array:
        """Bounds of the prefix groups, int32 [G + 1]: group i is sequences [g[i], g[i + 1]).

        A group is the users of one top-level segment, or a sequence that uses none.
        """
        top = self.segment_first[self.segment_parent < 0]
        alone = np.flatnonzero(self.sequence_segment < 0)
        bounds = np.concatenate([top, alone, [self.num_sequences]])
        return np.sort(bounds).astype(np.int32)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that plans have in common when they are equal."""
        digest = hashlib.blake2b(json.dumps(self._header()).encode(), digest_size=8)
        for name in _ARRAYS:
            digest.update(np.ascontiguousarray(getattr(self, name)).data)
        return digest.hexdigest()

    def path(self, segment: int) -> list[int]:
        """The segments from the top down to `segment`; empty for -1."""
        path: list[int] = []
        while segment >= 0:
            path.append(segment)
            segment = int(self.segment_parent[segment])
        return path[::-1]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Plan):
            return NotImplemented
        return all(np.array_equal(getattr(self, n), getattr(other, n)) for n in _ARRAYS) and (
            self._header() == other._header()
        )

    # Equality is by content of arrays; mypy wants a method here, Python takes None for unhashable.
    __hash__ = None  # type: ignore[assignment]

    def _header(self) -> dict[str, Any]:
        scalars = {"sharing": self.sharing.value, "order": self.order.value}
        counts = {name: getattr(self, name) for name in _COUNTS}
        return {"format": _FORMAT, **scalars, **counts}

    def save(self, path: Path | str) -> None:
        """Write the plan to one file: numpy's npz, and a header with the scalars as JSON."""
        header = np.frombuffer(json.dumps(self._header()).encode(), dtype=np.uint8)
        arrays: dict[str, Any] = {name: getattr(self, name) for name in _ARRAYS}
        with open(path, "wb") as file:
            np.savez(file, header=header, **arrays)

    @classmethod
    def load(cls, path: Path | str) -> Plan:
        """Read what `save` wrote.

        Raises:
            JobError: the file is no plan, or one of another version of the format.
        """
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as data:
                header = json.loads(data["header"].tobytes())
                arrays = {name: data[name] for name in _ARRAYS}
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile):
            raise JobError(f"{path} is not a plan; give a file written by Plan.save.") from None
        if header["format"] != _FORMAT:
            raise JobError(
                f"{path} is a plan of format {header['format']!r}, this version reads "
                f"{_FORMAT!r}: make the plan again."
            )
        return cls(
            **arrays,
            sharing=Sharing(header["sharing"]),
            order=Order(header["order"]),
            **{name: header[name] for name in _COUNTS},
        )


_ARRAYS = [f.name for f in fields(Plan) if f.name.startswith(("segment_", "sequence_"))]
_COUNTS = ["prompt_tokens", "computed_prompt_tokens"]
