"""How large the KV pool will be, as far as is known before any weight is loaded.

What options do not state is estimated, for explaining a plan only. A run measures (`placement`),
and neither accepts nor refuses a request by an estimate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from shoal.config import EngineOptions
from shoal.costs import Machine
from shoal.errors import OptionError
from shoal.machine.calibration_cache import device_threads, remembered, token_budget_of
from shoal.machine.device_memory import CudaMemory, DeviceMemory, MemoryReading, held_by_others
from shoal.machine.memory_groups import memory_groups
from shoal.machine.model_costs import layer_bytes, machine_of
from shoal.machine.weight_counts import count_weights
from shoal.model.description import ModelDescription
from shoal.scheduler import BLOCK_SIZE

CPU_KV_BYTES = 2**30
"""The KV pool of a CPU where none is stated."""


class CapacitySource(StrEnum):
    """Where the size of a KV pool comes from."""

    stated = "stated"
    default = "default"
    estimated = "estimated"


@dataclass(frozen=True)
class KVCapacity:
    """Tokens a KV pool holds, and how that is known."""

    tokens: int
    source: CapacitySource


def stated_blocks(description: ModelDescription, options: EngineOptions) -> int | None:
    """KV blocks of the pool as far as options say; None: known once the weights are loaded.

    Raises:
        OptionError: not even one.
    """
    stated = options.kv_bytes
    if stated is None and description.device.type != "cuda":
        stated = CPU_KV_BYTES
    return None if stated is None else description.kv_blocks(stated)


def planned_capacity(
    description: ModelDescription, options: EngineOptions, memory: DeviceMemory | None = None
) -> KVCapacity:
    """The KV pool that a run would have, as far as is known without weights.

    Args:
        memory: of a device whose pool takes all that is left; None: of the description's.

    Raises:
        OptionError: not even one block fits.
    """
    blocks = stated_blocks(description, options)
    if blocks is not None:
        stated = options.kv_bytes is not None
        source = CapacitySource.stated if stated else CapacitySource.default
        return KVCapacity(blocks * BLOCK_SIZE, source)
    left = estimate(description, options, memory or CudaMemory(description.device))
    try:
        blocks = description.kv_blocks(left)
    except OptionError:
        raise OptionError(
            f"{description.name} seems too large for the device: its weights and a batch leave no "
            "memory for KV. Lower token_budget, choose a narrower dtype, or give kv_memory to plan "
            "for another device."
        ) from None
    return KVCapacity(blocks * BLOCK_SIZE, CapacitySource.estimated)


def planned_machine(
    description: ModelDescription, options: EngineOptions, capacity: KVCapacity
) -> Machine:
    """Each of the machines that a run would have, as far as is known without weights."""
    threads = device_threads(options.devices)
    calibration = remembered(description, threads)
    budget = options.token_budget or token_budget_of(calibration)
    groups = memory_groups(description, options)
    machine = machine_of(description, calibration, budget, capacity.tokens, threads, groups)
    return replace(machine, adapter_bytes=options.lora_bytes)


def estimate(description: ModelDescription, options: EngineOptions, memory: DeviceMemory) -> int:
    """Bytes left for KV: weights from the config, and a batch that takes twice its logits.

    The most demanding batch has the logits of all its rows, and a copy of most of them
    (`shoal.machine.largest_batch`); in models of common shapes its layers take less than that.
    """
    counts, dtype = count_weights(description.config), description.dtype
    weights = layer_bytes(description, counts) + (counts.all - counts.layers) * dtype.itemsize
    budget = options.token_budget or token_budget_of(
        remembered(description, device_threads(options.devices))
    )
    logits = budget * description.vocab_size
    reading = MemoryReading(
        total=memory.total(),
        other=held_by_others(memory),
        weights=weights // description.tensor_parallel + options.lora_bytes,
        activations=2 * logits * description.dtype.itemsize,
    )
    return max(0, reading.left(options.memory_fraction))
