"""What a model costs: its work counted from the config, and rates of machines nobody measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import torch
from transformers import PreTrainedConfig

from shoal.config import Quantization
from shoal.costs import BLOCK_SIZE, Costs, Machine, MemoryGroup, Rates, RatesSource, StateLayers
from shoal.machine.calibration_cache import Calibration
from shoal.machine.layer_kinds import attention_costs
from shoal.machine.weight_counts import WeightCounts, count_weights
from shoal.model.description import ModelDescription
from shoal.model.layer_sizes import layer_sizes
from shoal.work import Window

CPU_CORE_FLOPS = 1e11
"""FLOP/s of one core where nothing was measured: AVX-512 in float32 reached 2.05e11, AMX-BF16 15
times that (docs/lab-notes.md); AVX2 has half the lanes."""
CPU_BYTES = 2e10
"""Bytes per second read by a CPU where nothing was measured: 2.2e10 to 2.8e10 were reached."""
CUDA_FLOPS = 1.9e14
"""60 % of the 312 TFLOP/s (bfloat16, dense) of NVIDIA's A100 data sheet."""
CUDA_BYTES = 1.6e12
"""80 % of the 2,039 GB/s of NVIDIA's A100 80GB SXM data sheet."""
LAYER_SECONDS = {"cpu": 3e-4, "cuda": 5e-5}
"""What a layer takes in every iteration beyond its work: calls, and launches of kernels. Measured
on a CPU: 2.6e-4 (hidden size 192) to 7e-4 (768)."""
SEGMENT_SECONDS = 7e-6
"""Per iteration and segment: listing it. Measured: 4e-6 to 15e-6."""


def default_costs(
    description: ModelDescription,
    threads: int | None = None,
    windows: Sequence[Window | None] | None = None,
) -> Costs:
    """The model's work, at rates to plan with where nothing was measured.

    A common machine of the device's kind is assumed. A level of sharing costs a row the half block
    of keys that a segment leaves empty on average, which is multiplied all the same.

    Args:
        threads: of its CPU; None: torch's.
        windows: see `layer_kinds`.
    """
    cuda = description.device.type == "cuda"
    flops = CUDA_FLOPS if cuda else CPU_CORE_FLOPS * (threads or torch.get_num_threads())
    layers = description.config.num_hidden_layers
    return model_costs(
        description,
        Rates(
            flops_per_second=flops,
            bytes_per_second=CUDA_BYTES if cuda else CPU_BYTES,
            iteration_seconds=layers * LAYER_SECONDS[description.device.type],
            segment_seconds=SEGMENT_SECONDS,
            use_seconds=BLOCK_SIZE / 2 * _attention_flops(description.config) / flops,
        ),
        windows,
    )


def machine_of(
    description: ModelDescription,
    calibration: Calibration | None,
    token_budget: int,
    kv_tokens: int,
    threads: int | None = None,
    groups: tuple[MemoryGroup, ...] = (),
    windows: Sequence[Window | None] | None = None,
) -> Machine:
    """The machine, at measured rates; at those of a common one where nothing was measured.

    Args:
        threads: CPU threads of the common one; None: torch's.
        groups: see `Machine`.
        windows: see `layer_kinds`.
    """
    if calibration is None:
        costs, source = default_costs(description, threads, windows), RatesSource.assumed
    else:
        costs = model_costs(description, calibration.rates, windows)
        source = RatesSource.measured
    states = None
    if description.states:
        states = StateLayers(costs.state_bytes / costs.kv_bytes)
        groups = ()  # memory is divided between KV and states alone
    return Machine(costs, token_budget, kv_tokens, source, groups=groups, states=states)


def model_costs(
    description: ModelDescription,
    rates: Rates,
    windows: Sequence[Window | None] | None = None,
) -> Costs:
    """The model's work, counted from its config without weights, at given rates.

    A weight of a matrix product is two FLOP per token; those of an expert count as often as a token
    is given to it. Embeddings are looked up, not multiplied. What an iteration reads counts all
    experts: a batch of many tokens meets them all.

    Args:
        windows: see `layer_kinds`.
    """
    weights = count_weights(description.config)
    dtype = description.dtype
    return Costs(
        flops_per_token=2.0 * weights.active,
        head_flops=2.0 * weights.head,
        attention_flops=_attention_flops(description.config),
        weight_bytes=float(layer_bytes(description, weights) + weights.head * dtype.itemsize),
        kv_bytes=float(description.kv_bytes_per_token),
        state_bytes=float(description.state_bytes),
        kinds=attention_costs(description, windows),
        **asdict(rates),
    )


def layer_bytes(description: ModelDescription, weights: WeightCounts) -> int:
    """What the weights of the layers take in memory: as stored, where the format is kept."""
    stored = description.stored
    if stored is not None and not stored.widened and stored.weights is not None:
        return stored.weights.layer_bytes
    int8 = description.quantization is Quantization.int8
    return weights.layers * (torch.int8 if int8 else description.dtype).itemsize


def _attention_flops(config: PreTrainedConfig) -> float:
    """FLOP of all layers for a query token and a KV token: a product with K, and one with V."""
    return sum(layer.pair_flops for layer in layer_sizes(config))
