"""Sharing out a device's memory: weights, what a batch needs besides, and the rest for KV.

The arithmetic is a pure function of a `MemoryReading`. What is read comes through `DeviceMemory`,
so that tests read from a made-up device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from shoal.errors import OptionError

GIB = 2**30


class DeviceMemory(Protocol):
    """What a device says about its memory, in bytes."""

    def total(self) -> int:
        """What the device has."""

    def free(self) -> int:
        """What nobody holds, neither this process (tensors and cache) nor another."""

    def allocated(self) -> int:
        """What this process's tensors take."""

    def reserved(self) -> int:
        """What this process's allocator holds: its tensors, and freed memory it keeps."""

    def peak(self) -> int:
        """Most that tensors took at a time since `reset_peak`."""

    def reset_peak(self) -> None:
        """Count the peak from now on."""

    def empty_cache(self) -> None:
        """Give freed memory back to the device."""


class CudaMemory:
    """`DeviceMemory` of a CUDA device: torch's allocator, and the driver for the whole device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def total(self) -> int:
        """See `DeviceMemory`."""
        return torch.cuda.mem_get_info(self._device)[1]

    def free(self) -> int:
        """See `DeviceMemory`."""
        return torch.cuda.mem_get_info(self._device)[0]

    def allocated(self) -> int:
        """See `DeviceMemory`."""
        return torch.cuda.memory_allocated(self._device)

    def reserved(self) -> int:
        """See `DeviceMemory`."""
        return torch.cuda.memory_reserved(self._device)

    def peak(self) -> int:
        """See `DeviceMemory`."""
        return torch.cuda.max_memory_allocated(self._device)

    def reset_peak(self) -> None:
        """See `DeviceMemory`."""
        torch.cuda.reset_peak_memory_stats(self._device)

    def empty_cache(self) -> None:
        """See `DeviceMemory`."""
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class MemoryReading:
    """What takes a device's memory, in bytes, before the KV pool does.

    Attributes:
        total: what the device has.
        other: held outside our tensors: other processes, the CUDA context, loaded kernels.
        weights: tensors that stay, without any KV pool, and what adapters may take.
        activations: most that computing one batch adds, sampling included.
        graphs: what captured graphs keep to themselves.
    """

    total: int
    other: int
    weights: int
    activations: int
    graphs: int = 0

    def left(self, fraction: float) -> int:
        """What the KV pool may take if `fraction` of the device is used in all; may be below 0."""
        taken = self.other + self.weights + self.activations + self.graphs
        return int(self.total * fraction) - taken

    def __str__(self) -> str:
        parts = {
            "weights": self.weights,
            "the largest batch": self.activations,
            "CUDA graphs": self.graphs,
            "CUDA itself and other processes": self.other,
        }
        return ", ".join(f"{size / GIB:.2f} GiB {name}" for name, size in parts.items() if size)


def peak_of(memory: DeviceMemory, work: Callable[[], None]) -> int:
    """Bytes that `work` needs at most beyond what is there; it must wait for the device."""
    memory.empty_cache()
    before = memory.allocated()
    memory.reset_peak()
    work()
    return memory.peak() - before


def held_by_others(memory: DeviceMemory) -> int:
    """Bytes of the device that are neither free nor this process's allocator's."""
    return max(0, memory.total() - memory.free() - memory.reserved())


def check_stated(stated: int, reading: MemoryReading, fraction: float) -> None:
    """Refuse a KV memory that does not fit beside what else is needed.

    Raises:
        OptionError: says what there is, what is needed, and what would fit.
    """
    left = reading.left(fraction)
    if stated <= left:
        return
    usable = reading.total * fraction
    raise OptionError(
        f"kv_memory of {stated / GIB:.2f} GiB does not fit: {usable / GIB:.2f} GiB of the device's "
        f"{reading.total / GIB:.2f} GiB may be used (memory_fraction {fraction:g}), and {reading} "
        f"leave {max(0, left) / GIB:.2f} GiB. Give a smaller kv_memory, or auto; or lower "
        "token_budget, or raise memory_fraction."
    )


def no_room(reading: MemoryReading, fraction: float, tokens: int) -> OptionError:
    """The error where nothing worth having is left for the KV pool beside batches of `tokens`."""
    return OptionError(
        f"no memory is left for KV: {reading.total * fraction / GIB:.2f} GiB of the device's "
        f"{reading.total / GIB:.2f} GiB may be used (memory_fraction {fraction:g}), and {reading} "
        f"take it, with batches of {tokens} tokens. Lower token_budget, choose a narrower dtype or "
        "a smaller model, or end what else runs on the device."
    )
