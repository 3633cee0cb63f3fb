"""Copies between host and device that the host does not wait for.

What a batch needs on the device (columns of numbers, most of them short) is packed into one pinned
buffer and copied once; the tokens it gives come back into a pinned buffer, with an event that says
when they have. Buffers are used in turns. Each belongs to one batch, and is used again only
`TURNS` batches later, when that batch has long been collected: at most two are under way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

TURNS = 3
"""Sets of buffers; one more than the batches that are under way at once."""

FIRST_BYTES = 1 << 18
"""Size a buffer begins with."""

_ALIGNMENT = 16


class Stage(Protocol):
    """Takes the columns of one batch to the device."""

    def put(self, column: npt.NDArray[np.generic]) -> torch.Tensor:
        """The column as a device tensor, not to be read before `send`."""

    def send(self) -> None:
        """Copy all that was put; the device waits for it, the host does not."""


class DirectStage:
    """On the host itself: nothing is copied."""

    def put(self, column: npt.NDArray[np.generic]) -> torch.Tensor:
        """The column as a tensor, which shares its memory."""
        return torch.from_numpy(column)

    def send(self) -> None:
        """Nothing to do."""


class Event(Protocol):
    """A point in the device's stream of work, as `torch.cuda.Event` has it."""

    def record(self) -> None:
        """The point is where the stream ends now."""

    def synchronize(self) -> None:
        """Wait until the device has come to the point."""


Allocate = Callable[[int], torch.Tensor]
"""Gives uint8 memory on the host, of so many bytes."""


@dataclass(frozen=True)
class _Page:
    host: torch.Tensor
    array: npt.NDArray[np.uint8]
    device: torch.Tensor


class PackedStage:
    """Packs columns into one buffer on the host, with a twin of the same layout on the device."""

    def __init__(self, device: torch.device, allocate: Allocate, num_bytes: int) -> None:
        self._device, self._allocate = device, allocate
        self._pages = [self._page(num_bytes)]
        self._used = [0]

    @property
    def num_bytes(self) -> int:
        """Bytes that can be put without growing."""
        return sum(len(page.array) for page in self._pages)

    def clear(self) -> None:
        """Begin another batch. Buffers that had to be added are replaced by one."""
        if len(self._pages) > 1:
            self._pages = [self._page(2 * self.num_bytes)]
        self._used = [0] * len(self._pages)

    def put(self, column: npt.NDArray[np.generic]) -> torch.Tensor:
        """Copy the column into the host's buffer; a view of its twin on the device."""
        first = -(-self._used[-1] // _ALIGNMENT) * _ALIGNMENT
        if first + column.nbytes > len(self._pages[-1].array):
            self._pages.append(self._page(max(column.nbytes, self.num_bytes)))
            self._used.append(0)
            first = 0
        page, last = self._pages[-1], first + column.nbytes
        page.array[first:last].view(column.dtype)[:] = column.reshape(-1)
        self._used[-1] = last
        dtype = torch.from_numpy(np.empty(0, dtype=column.dtype)).dtype
        return page.device[first:last].view(dtype).view(column.shape)

    def send(self) -> None:
        """One copy per buffer, from pinned memory."""
        for page, used in zip(self._pages, self._used, strict=True):
            if used:
                page.device[:used].copy_(page.host[:used], non_blocking=True)

    def _page(self, num_bytes: int) -> _Page:
        host = self._allocate(num_bytes)
        device = torch.empty(num_bytes, dtype=torch.uint8, device=self._device)
        return _Page(host, host.numpy(), device)


class Landing:
    """Buffers on the host that results of one batch come back to."""

    def __init__(self, allocate: Allocate, event: Event) -> None:
        self._allocate, self._event = allocate, event
        self._host = allocate(FIRST_BYTES)

    def begin(self, results: Sequence[torch.Tensor]) -> Callable[[], list[npt.NDArray[np.generic]]]:
        """Copy device tensors to the host when the device has made them.

        Returns:
            Waits for the copies, and gives them as arrays of their own.
        """
        sizes = [result.numel() * result.element_size() for result in results]
        offsets = np.cumsum([0, *(-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes)]).tolist()
        if offsets[-1] > len(self._host):
            self._host = self._allocate(2 * offsets[-1])
        parts = []
        for result, first, size in zip(results, offsets, sizes, strict=False):
            part = self._host[first : first + size].view(result.dtype).view(result.shape)
            part.copy_(result, non_blocking=True)
            parts.append(part)
        self._event.record()

        def wait() -> list[npt.NDArray[np.generic]]:
            self._event.synchronize()
            return [part.numpy().copy() for part in parts]

        return wait


@dataclass
class _Turn:
    stage: PackedStage
    landing: Landing


class Transfers:
    """Both ways, for batches launched in order of which at most two are under way."""

    def __init__(
        self, device: torch.device, allocate: Allocate, make_event: Callable[[], Event]
    ) -> None:
        """`allocate`: memory that the device can copy from and to by itself."""
        self._turns = [
            _Turn(PackedStage(device, allocate, FIRST_BYTES), Landing(allocate, make_event()))
            for _ in range(TURNS)
        ]
        self._next = 0

    @classmethod
    def cuda(cls, device: torch.device) -> Transfers:
        """Pinned memory and CUDA events, on the current stream."""

        def pinned(num_bytes: int) -> torch.Tensor:
            return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)

        return cls(device, pinned, torch.cuda.Event)

    def turn(self) -> tuple[PackedStage, Landing]:
        """The buffers of the next batch."""
        turn = self._turns[self._next]
        self._next = (self._next + 1) % TURNS
        turn.stage.clear()
        return turn.stage, turn.landing
