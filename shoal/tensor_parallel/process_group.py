"""torch's process group of one model's processes: NCCL between CUDA devices, gloo between CPUs."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from shoal.errors import OptionError
from shoal.processes import PATIENCE_SECONDS

if TYPE_CHECKING:
    from torch._C._distributed_c10d import TCPStore

HOST = "127.0.0.1"
PATIENCE = timedelta(seconds=PATIENCE_SECONDS)
"""How long a rank waits for another in an exchange. A process that dies is noticed at once."""


def make_store(world: int) -> TCPStore:
    """Where the ranks find each other, on a port the system chooses; rank 0 owns it.

    Raises:
        OptionError: this process is in a process group already.
    """
    if dist.is_initialized():
        raise OptionError(
            "tensor_parallel: this process is in a torch process group already. Only one tensor "
            "parallel model can be open at a time, and none under torchrun: close the other first, "
            "or start this program by itself."
        )
    return _store(0, world, is_master=True)


def find_store(port: int, world: int) -> TCPStore:
    """Rank 0's store, seen from another rank."""
    return _store(port, world, is_master=False)


def _store(port: int, world: int, *, is_master: bool) -> TCPStore:
    # Part of torch only where it was built with distributed, so not exported by name.
    make: type[TCPStore] = dist.TCPStore  # type: ignore[attr-defined]
    return make(HOST, port, world, is_master, PATIENCE, wait_for_workers=False)


def join(store: TCPStore, rank: int, world: int, device: torch.device) -> None:
    """Enter the process group, as the process that drives device `rank`."""
    if device.type == "cuda":
        torch.cuda.set_device(rank)
        own = torch.device("cuda", rank)
        dist.init_process_group(
            "nccl", store=store, rank=rank, world_size=world, timeout=PATIENCE, device_id=own
        )
        return
    with _environment("GLOO_SOCKET_IFNAME", _loopback()):
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=PATIENCE)


def leave() -> None:
    """Leave the process group, whether or not the others still live."""
    if not dist.is_initialized():
        return
    abort()
    dist.destroy_process_group()


def abort() -> None:
    """Let go of what the devices still exchange; a kernel that waits for a dead process ends.

    gloo needs none of this: it notices closed connections by itself.
    """
    if dist.is_initialized() and dist.get_backend() == "nccl":
        # torch has no public name for aborting all groups at once.
        dist.distributed_c10d._abort_process_group()


@contextmanager
def launched_as(rank: int, world: int) -> Iterator[None]:
    """The variables a launcher such as torchrun sets, by which transformers picks the device."""
    with (
        _environment("RANK", str(rank)),
        _environment("LOCAL_RANK", str(rank)),
        _environment("WORLD_SIZE", str(world)),
    ):
        yield


@contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    """Sets a variable for the while, unless it is None."""
    before = os.environ.get(name)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        if value is not None and before is None:
            del os.environ[name]
        elif value is not None and before is not None:
            os.environ[name] = before


def _loopback() -> str | None:
    """The network interface of this machine alone; gloo would look its host name up otherwise."""
    if "GLOO_SOCKET_IFNAME" in os.environ:
        return None
    names = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    return names[0] if names else None
