"""A Ray cluster, as far as a job needs it: its machines, and actors on them."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from shoal.errors import OptionError

KNOCK_SECONDS = 10.0
"""How long the cluster's head may take to accept a connection."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class RayNode:
    """A machine of the cluster that is alive.

    Attributes:
        cpus, gpus: that it has in all, not what is free.
    """

    id: str
    host: str
    cpus: int
    gpus: int

    def room_for(self, cpus: int, gpus: int) -> int:
        """How many engines of so many CPUs and GPUs it has room for."""
        by_cpus = self.cpus // cpus if cpus else self.gpus
        return min(by_cpus, self.gpus // gpus) if gpus else by_cpus


class RayCluster:
    """A connection to a cluster; one that this object began ends with `leave`."""

    def __init__(self, address: str) -> None:
        """Connect, unless this process is connected already.

        Raises:
            OptionError: ray is not installed, there is no cluster at the address, or this process
                is connected to another one.
        """
        self.ray = _require_ray()
        self._began = not self.ray.is_initialized()
        self._address = address
        if self._began:
            self.connect()
        elif address != "auto" and address != (known := self._known_address()):
            raise OptionError(
                f"ray {address!r}: this program is connected to the cluster at {known} already. "
                "Give ray auto to use it."
            )

    def connect(self) -> None:
        """Connect again after `leave`; nothing, if there is a connection."""
        if self.ray.is_initialized():
            return
        try:
            _knock(self._address)
            with _signals_kept():
                self.ray.init(
                    address=self._address, logging_level=logging.WARNING, log_to_driver=True
                )
        except Exception as error:  # Ray raises any kind
            reason = " ".join(str(error).split())[:300]
            raise OptionError(
                f"ray {self._address!r}: no cluster can be reached there: {reason} Start one with "
                "`ray start --head`, or give the address that `ray status` knows."
            ) from error

    def leave(self) -> None:
        """End the connection, if it was begun here. Idempotent."""
        if self._began and self.ray.is_initialized():
            self.ray.shutdown()

    def nodes(self) -> list[RayNode]:
        """The machines that are alive."""
        return [
            RayNode(
                node["NodeID"],
                node["NodeManagerAddress"],
                int(node["Resources"].get("CPU", 0)),
                int(node["Resources"].get("GPU", 0)),
            )
            for node in self.ray.nodes()
            if node["Alive"]
        ]

    def actor(self, cls: type, resources: Mapping[str, int], group: Any = None) -> Any:
        """A class of actors that Ray neither restarts nor tries again; we do.

        Args:
            resources: of each, under Ray's names CPU and GPU.
            group: a placement group of one bundle, to be in.
        """
        options: dict[str, Any] = {
            "num_cpus": resources["CPU"],
            "num_gpus": resources["GPU"],
            "max_restarts": 0,
            "max_task_retries": 0,
            "concurrency_groups": {"tell": 1, "hear": 1},
        }
        if group is not None:
            from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(group, 0)
        return self.ray.remote(**options)(cls)

    def bundle(self, resources: Mapping[str, int]) -> Any:
        """A placement group of one bundle, which is on one machine."""
        from ray.util.placement_group import placement_group

        wanted = {name: count for name, count in resources.items() if count}
        return placement_group([wanted], strategy="STRICT_PACK")

    def remove(self, group: Any) -> None:
        """Give a placement group's resources back."""
        from ray.util.placement_group import remove_placement_group

        remove_placement_group(group)

    def _known_address(self) -> str:
        return str(self.ray.get_runtime_context().gcs_address)


def _require_ray() -> Any:
    try:
        import ray
    except ModuleNotFoundError:
        raise OptionError("ray is not installed: pip install 'shoal[ray]'.") from None
    return ray


def _knock(address: str) -> None:
    """Raise `OSError` where nobody listens; Ray would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), KNOCK_SECONDS).close()


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself when it connects; a job saves what is done first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
