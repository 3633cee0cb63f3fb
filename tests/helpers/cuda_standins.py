"""CPU stand-ins for what only CUDA has: a graph, a device's memory, attention over fixed buffers.

They are stand-ins: what they show is that our code around CUDA is right, not that CUDA is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from shoal.attention import PLAIN, AttentionKind, KVLayer, KVShape
from shoal.attention.reference import ReferenceAttention
from shoal.kernels.ops import LayerOps, Rotation, RowOp
from shoal.work import SegmentWork


class Tape(TorchDispatchMode):
    """What a CUDA graph is: the operations of one run, on the very memory they had in it.

    Nothing of Python is run again. A tensor made while it recorded keeps its memory, and replaying
    writes there; whoever looked at a value in between does not look again.
    """

    now: Tape | None = None

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[Callable[[], None]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        keywords = kwargs or {}
        out = func(*args, **keywords)
        old = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]

        def again() -> None:
            fresh = [leaf for leaf in tree_leaves(func(*args, **keywords)) if torch.is_tensor(leaf)]
            for before, after in zip(old, fresh, strict=True):
                if before.data_ptr() != after.data_ptr():
                    before.copy_(after)

        self.entries.append(again)
        return out

    def replay(self) -> None:
        for entry in self.entries:
            entry()


@dataclass
class TapeRecorder:
    """Records on tapes; `records` counts them, and from `fail_from` on none can be made."""

    records: int = 0
    fail_from: int | None = None

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        work()
        if self.fail_from is not None and self.records >= self.fail_from:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.records += 1
        Tape.now = Tape()
        try:
            with Tape.now:
                work()
            return Tape.now.replay
        finally:
            Tape.now = None


@dataclass
class FixedReferenceWork:
    """The current work list; takes up to `rows` rows."""

    rows: int
    work: SegmentWork | None = None

    def fill(self, work: SegmentWork) -> bool:
        if work.num_rows > self.rows:
            return False
        self.work = work
        return True


class FixedReference(ReferenceAttention):
    """The reference; on a tape it is one opaque launch that reads its work list when replayed."""

    def fixed(self, capacity: Any, device: torch.device) -> FixedReferenceWork:
        return FixedReferenceWork(capacity.rows)

    def __call__(
        self,
        query: torch.Tensor,
        layer: KVLayer,
        prepared: object,
        scale: float,
        kind: AttentionKind = PLAIN,
    ) -> torch.Tensor:
        if not isinstance(prepared, FixedReferenceWork):
            return super().__call__(query, layer, prepared, scale, kind)
        return opaque(
            lambda: super(FixedReference, self).__call__(query, layer, prepared.work, scale, kind)
        )


class OpaqueLaunches:
    """A backend whose kernels are no operations of torch: on a tape each call is one launch."""

    name = "opaque"

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def allocate(self, shape: KVShape) -> KVLayer:
        return self.inner.allocate(shape)

    def store(
        self, layer: KVLayer, slots: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> None:
        opaque(lambda: self.inner.store(layer, slots, key, value))

    def prepare(self, work: SegmentWork, device: torch.device) -> object:
        return self.inner.prepare(work, device)

    def fixed(self, capacity: Any, device: torch.device) -> Any:
        return self.inner.fixed(capacity, device)

    def __call__(
        self,
        query: torch.Tensor,
        layer: KVLayer,
        prepared: object,
        scale: float,
        kind: AttentionKind = PLAIN,
    ) -> torch.Tensor:
        return opaque(lambda: self.inner(query, layer, prepared, scale, kind))


class OpaqueOps:
    """Layer ops whose kernels are no operations of torch, as `OpaqueLaunches`."""

    def __init__(self, inner: LayerOps) -> None:
        self._inner = inner

    def rms_norm(self, *args: Any) -> RowOp:
        return _launches(self._inner.rms_norm(*args))

    def gated(self, *args: Any) -> RowOp:
        return _launches(self._inner.gated(*args))

    def rotation(self, *args: Any, **how: Any) -> Rotation:
        return _launches(self._inner.rotation(*args, **how))


def _launches(op: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    return lambda *args: opaque(lambda: op(*args))


def opaque(launch: Callable[[], torch.Tensor | None]) -> Any:
    """Do it; on a tape, record it as one entry that writes to the same result."""
    tape, Tape.now = Tape.now, None
    if tape is None:
        return launch()
    try:
        with torch.utils._python_dispatch._disable_current_modes():
            out = launch()
    finally:
        Tape.now = tape

    def again() -> None:
        fresh = launch()
        if out is not None and fresh is not None:
            out.copy_(fresh)

    tape.entries.append(again)
    return out


@dataclass
class MadeUpMemory:
    """A device of `size` bytes. Tensors are not seen: what is allocated is told by `take`."""

    size: int
    others: int = 0
    held: int = 0
    high: int = 0
    emptied: int = field(default=0)

    def take(self, count: int) -> None:
        """Allocate, or with a negative count free; out of memory beyond the size."""
        if self.held + count + self.others > self.size:
            raise torch.OutOfMemoryError(f"made-up device: {count} B asked for")
        self.held += count
        self.high = max(self.high, self.held)

    def total(self) -> int:
        return self.size

    def free(self) -> int:
        return self.size - self.others - self.held

    def allocated(self) -> int:
        return self.held

    def reserved(self) -> int:
        return self.held

    def peak(self) -> int:
        return self.high

    def reset_peak(self) -> None:
        self.high = self.held

    def empty_cache(self) -> None:
        self.emptied += 1
