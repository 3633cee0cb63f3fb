"""Who has which requests: each is with one device, waits, or is done. No processes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shoal.errors import InternalError
from shoal.types import Int64Array

FloatArray = npt.NDArray[np.float64]

_WAITS, _DONE = -1, -2


class Assignments:
    """The requests of a run, and whom to ask for some when a device is idle.

    Attributes:
        asked: the device that was asked to release requests and has not answered, or None.
    """

    def __init__(self, seconds: FloatArray) -> None:
        """`seconds`: float64 [N], predicted of each request. At first all wait."""
        self._seconds = seconds
        self._device = np.full(len(seconds), _WAITS, dtype=np.int64)
        self._left: dict[int, float] = {}
        self._exhausted: set[int] = set()
        self.unfinished = len(seconds)
        """Requests that are not done."""
        self.asked: int | None = None

    @property
    def waiting(self) -> Int64Array:
        """Requests that no device has, ascending."""
        return np.flatnonzero(self._device == _WAITS)

    def of(self, device: int) -> Int64Array:
        """Requests that a device has to finish, ascending."""
        return np.flatnonzero(self._device == device)

    def assign(self, device: int, requests: Int64Array) -> None:
        """Waiting requests go to a device."""
        if (self._device[requests] != _WAITS).any():
            raise InternalError("a request was assigned to two devices")
        self._device[requests] = device
        self._left[device] = float(self._seconds[requests].sum())
        self._exhausted.discard(device)

    def complete(self, device: int, request: int) -> None:
        """A device has completed a request."""
        if self._device[request] != device:
            raise InternalError(f"request {request} was completed by a device that has it not")
        self._device[request] = _DONE
        self._left[device] -= float(self._seconds[request])
        self.unfinished -= 1

    def drop(self, requests: Int64Array) -> None:
        """Waiting requests that nobody is to run."""
        if (self._device[requests] != _WAITS).any():
            raise InternalError("a request was dropped that a device has")
        self._device[requests] = _DONE
        self.unfinished -= len(requests)

    def released(self, device: int, requests: Int64Array) -> None:
        """The answer of a device that was asked: requests that wait from now on, if any."""
        if (self._device[requests] != device).any():
            raise InternalError("a device released requests that it has not")
        self._device[requests] = _WAITS
        self._left[device] -= float(self._seconds[requests].sum())
        self.asked = None
        if not len(requests):
            self._exhausted.add(device)

    def take_back(self, device: int) -> Int64Array:
        """A device is gone: what it had not finished waits again. Returns those requests."""
        requests = self.of(device)
        self._device[requests] = _WAITS
        if self.asked == device:
            self.asked = None
        return requests

    def ask(self, busy: list[int]) -> int | None:
        """The busy device to ask to release requests, marked as asked; None: there is none to ask.

        That is the one with the most left, as predicted. One that had nothing to release is not
        asked again before it gets new requests, and nobody while another's answer is due.
        """
        candidates = [device for device in busy if device not in self._exhausted]
        if self.asked is not None or not candidates:
            return None
        self.asked = max(candidates, key=lambda device: (self._left[device], -device))
        return self.asked
