"""Who has which requests: every request is with one device, waits, or is done. No processes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shoal.errors import InternalError
from shoal.types import Int64Array

FloatArray = npt.NDArray[np.float64]

_WAITS, _DONE = -1, -2


class Book:
    """The requests of a run, and whom to ask for some when a device is idle.

    Attributes:
        asked: the device that was asked to give up requests and has not answered, or None.
    """

    def __init__(self, seconds: FloatArray, devices: int) -> None:
        """`seconds`: float64 [N], predicted of each request. At first all wait."""
        self._seconds = seconds
        self._holder = np.full(len(seconds), _WAITS, dtype=np.int64)
        self._left = [0.0] * devices
        self._dry: set[int] = set()
        self.unfinished = len(seconds)
        """Requests that are not done."""
        self.asked: int | None = None

    @property
    def waiting(self) -> Int64Array:
        """Requests that no device has, ascending."""
        return np.flatnonzero(self._holder == _WAITS)

    def held(self, device: int) -> Int64Array:
        """Requests that a device has to finish, ascending."""
        return np.flatnonzero(self._holder == device)

    def give(self, device: int, requests: Int64Array) -> None:
        """Waiting requests go to a device."""
        if (self._holder[requests] != _WAITS).any():
            raise InternalError("a request was given to two devices")
        self._holder[requests] = device
        self._left[device] = float(self._seconds[requests].sum())
        self._dry.discard(device)

    def finished(self, device: int, request: int) -> None:
        """A device has completed a request."""
        if self._holder[request] != device:
            raise InternalError(f"request {request} was completed by a device that has it not")
        self._holder[request] = _DONE
        self._left[device] -= float(self._seconds[request])
        self.unfinished -= 1

    def gave(self, device: int, requests: Int64Array) -> None:
        """The answer of a device that was asked: requests that wait from now on, if any."""
        if (self._holder[requests] != device).any():
            raise InternalError("a device gave up requests that it has not")
        self._holder[requests] = _WAITS
        self._left[device] -= float(self._seconds[requests].sum())
        self.asked = None
        if not len(requests):
            self._dry.add(device)

    def lost(self, device: int) -> Int64Array:
        """A device is gone: what it had not finished waits again. Returns those requests."""
        requests = self.held(device)
        self._holder[requests] = _WAITS
        if self.asked == device:
            self.asked = None
        return requests

    def ask(self, busy: list[int]) -> int | None:
        """The busy device to ask for requests, marked as asked; None: there is none to ask.

        That is the one with the most left, as predicted. One that had nothing to give is not asked
        again before it gets new requests, and nobody while another's answer is due.
        """
        candidates = [device for device in busy if device not in self._dry]
        if self.asked is not None or not candidates:
            return None
        self.asked = max(candidates, key=lambda device: (self._left[device], -device))
        return self.asked
