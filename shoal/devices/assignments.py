"""Who has which requests: each is with one device, waits, or is done. No processes."""

from __future__ import annotations

import heapq

import numpy as np
import numpy.typing as npt

from shoal.errors import InternalError
from shoal.types import Int64Array

FloatArray = npt.NDArray[np.float64]

_WAITS, _DONE = -1, -2


class Assignments:
    """The requests of a run, and whom to ask for some when devices are idle.

    Attributes:
        asked: devices that were asked to release requests and have not answered, each with how many
            idle ones that is for.
    """

    def __init__(self, seconds: FloatArray) -> None:
        """`seconds`: float64 [N], predicted of each request. At first all wait."""
        self._seconds = seconds
        self._device = np.full(len(seconds), _WAITS, dtype=np.int64)
        self._waiting = len(seconds)
        self._freed = [np.arange(len(seconds))]
        """All that wait are among these; a look at 10^7 requests each time takes too long."""
        self._left: dict[int, float] = {}
        self._unfinished: dict[int, int] = {}
        self._exhausted: set[int] = set()
        self.unfinished = len(seconds)
        """Requests that are not done."""
        self.asked: dict[int, int] = {}

    @property
    def waiting(self) -> Int64Array:
        """Requests that no device has, ascending."""
        if not self._waiting:
            return np.zeros(0, dtype=np.int64)
        freed = np.unique(np.concatenate(self._freed))
        self._freed = [freed[self._device[freed] == _WAITS]]
        return self._freed[0]

    @property
    def promised(self) -> int:
        """Idle devices for which requests were asked."""
        return sum(self.asked.values())

    def of(self, device: int) -> Int64Array:
        """Requests that a device has to finish, ascending."""
        if not self._unfinished.get(device):
            return np.zeros(0, dtype=np.int64)
        return np.flatnonzero(self._device == device)

    def assign(self, device: int, requests: Int64Array) -> None:
        """Waiting requests go to a device that has none."""
        if (self._device[requests] != _WAITS).any():
            raise InternalError("a request was assigned to two devices")
        self._device[requests] = device
        self._waiting -= len(requests)
        if not self._waiting:
            self._freed.clear()
        self._left[device] = float(self._seconds[requests].sum())
        self._unfinished[device] = len(requests)
        self._exhausted.discard(device)

    def complete(self, device: int, requests: Int64Array) -> None:
        """A device has completed requests."""
        once = len(np.unique(requests)) == len(requests)
        if not once or (self._device[requests] != device).any():
            raise InternalError("a request was completed by a device that has it not")
        self._take_from(device, requests, _DONE)
        self.unfinished -= len(requests)

    def drop(self, requests: Int64Array) -> None:
        """Waiting requests that nobody is to run."""
        if (self._device[requests] != _WAITS).any():
            raise InternalError("a request was dropped that a device has")
        self._device[requests] = _DONE
        self._waiting -= len(requests)
        self.unfinished -= len(requests)

    def released(self, device: int, requests: Int64Array) -> None:
        """The answer of a device that was asked: requests that wait from now on, if any."""
        if (self._device[requests] != device).any():
            raise InternalError("a device released requests that it has not")
        self._free(device, requests)
        if not len(requests):
            self._exhausted.add(device)

    def take_back(self, device: int) -> Int64Array:
        """A device is gone: what it had not finished waits again. Returns those requests."""
        requests = self.of(device)
        self._free(device, requests)
        return requests

    def ask(self, busy: list[int], idle: int) -> dict[int, int]:
        """The busy devices to ask to release requests, marked as asked, each for how many idle.

        Idle devices are dealt out one by one, each to the one that has the most left, as predicted,
        for every device that works on it (D'Hondt's rule). Asking one for all that are idle would
        give a thousand of them a thousandth each of one device's rest. One that had nothing to
        release is not asked again before it gets new requests.

        Args:
            idle: devices that are; those are left out that have been promised some.
        """
        candidates = [d for d in busy if d not in self._exhausted and d not in self.asked]
        heap = [(-self._left[device], device, 0) for device in candidates]
        heapq.heapify(heap)
        asked: dict[int, int] = {}
        for _ in range(idle - self.promised if heap else 0):
            _, device, helpers = heap[0]
            asked[device] = helpers + 1
            heapq.heapreplace(heap, (-self._left[device] / (helpers + 2), device, helpers + 1))
        self.asked |= asked
        return asked

    def _free(self, device: int, requests: Int64Array) -> None:
        self._take_from(device, requests, _WAITS)
        self._waiting += len(requests)
        self._freed.append(requests)
        self.asked.pop(device, None)

    def _take_from(self, device: int, requests: Int64Array, state: int) -> None:
        self._device[requests] = state
        if len(requests):
            self._left[device] -= float(self._seconds[requests].sum())
            self._unfinished[device] -= len(requests)
