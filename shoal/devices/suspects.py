"""Requests that may kill the engine they run on: found by trying ever smaller groups of them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from shoal.types import Int64Array

PARTS = 8
"""Into which a group is divided whose engine died: one of 10^5 requests is found in six deaths."""
ALONE = 3
"""Deaths of an engine that ran nothing but a request, before that is given up, ..."""
ELSEWHERE = 2
"""... and the different devices that must be among them, if there are so many."""
WITNESSED = 2
"""Deaths that a request must have been under way or waiting in, to be suspected."""


@dataclass(frozen=True, eq=False)
class Group:
    """Suspects that run together, and nobody with them."""

    requests: Int64Array
    died: tuple[int, ...] = ()
    """Devices that died of these requests and of no others, once for each time."""


@dataclass
class Suspects:
    """Groups of suspects that wait for a device.

    One death says nothing: machines are taken away, memory runs out. Who was unfinished in two is
    run apart. A group whose engine dies is divided; the parts that end well are cleared, since
    their requests are done. What is left of one request is the culprit, or on a broken device:
    so the same device does not get a group that has killed it while there are others.
    """

    waiting: deque[Group] = field(default_factory=deque)
    _deaths: dict[int, int] = field(default_factory=dict)

    @property
    def requests(self) -> Int64Array:
        """Of all groups that wait."""
        parts = [group.requests for group in self.waiting]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)

    def witnessed(self, requests: Int64Array) -> None:
        """A device died with these unfinished; those that are suspected now form a group."""
        suspected = []
        for request in requests.tolist():
            self._deaths[request] = self._deaths.get(request, 0) + 1
            if self._deaths[request] >= WITNESSED:
                suspected.append(request)
        if suspected:
            self._divide(np.array(suspected))

    def take(self, device: int, others: bool) -> Group | None:
        """A group for an idle device.

        Args:
            others: whether there are other devices, which may have what killed this one.
        """
        for group in self.waiting:
            if not others or device not in group.died or len(set(group.died)) >= ELSEWHERE:
                self.waiting.remove(group)
                return group
        return None

    def killed(self, device: int, group: Group, left: Int64Array, devices: int) -> Int64Array:
        """A device died that ran a group, of which these are left; those to be given up.

        Args:
            devices: that are there.
        """
        if len(left) != 1:
            self._divide(left)
            return left[:0]
        alone = len(group.requests) == 1
        died = (*group.died, device) if alone else (device,)
        if len(died) >= ALONE and len(set(died)) >= min(ELSEWHERE, devices):
            return left
        self.waiting.append(Group(left, died))
        return left[:0]

    def _divide(self, requests: Int64Array) -> None:
        parts = np.array_split(requests, min(PARTS, max(1, len(requests))))
        self.waiting.extend(Group(part) for part in parts if len(part))
