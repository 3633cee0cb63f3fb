"""The adapters that a job's lines may name, from what `--lora` says."""

from __future__ import annotations

from collections.abc import Collection

import torch
from transformers import PreTrainedConfig

from shoal.config import EngineOptions
from shoal.errors import OptionError
from shoal.model.lora.adapter_folders import adapter_folders
from shoal.model.lora.adapter_reader import AdapterReader
from shoal.model.lora.base_linears import refuse_model
from shoal.model.lora.held_format import HeldFormat
from shoal.types import Adapter


def refuse_adapters(config: PreTrainedConfig, options: EngineOptions, *, pools: bool) -> None:
    """Refuse adapters where they are not applied, if any may come.

    Args:
        config: of all that the checkpoint holds.
        pools: the model gives vectors, scores or classes.

    Raises:
        OptionError: it does not generate.
        UnsupportedModelError: see `refuse_model`.
    """
    if not options.lora_bytes:
        return
    if pools:
        raise OptionError(
            "lora: adapters are applied to models that generate; for vectors, scores and classes "
            "merge the adapter into its model."
        )
    composite = config.get_text_config() is not config
    refuse_model(config.get_text_config(), composite=composite, parts=options.tensor_parallel)


def job_adapters(
    config: PreTrainedConfig,
    options: EngineOptions,
    dtype: torch.dtype,
    device: torch.device,
    taken: Collection[str],
) -> tuple[Adapter, ...]:
    """All adapters that `lora` gives, in the order of their names.

    Args:
        taken: what the model is called: as given, and its name.

    Raises:
        OptionError: a folder holds none, a name is given twice, or the memory holds one not.
        ModelLoadError: see `AdapterReader.read`.
    """
    paths = adapter_folders(options.lora, taken)
    if not paths:
        return ()
    model, trusted = next(iter(taken)), options.trust_remote_code
    reader = AdapterReader(config, model, HeldFormat.of(dtype, device), trusted=trusted)
    adapters = tuple(reader.read(name, str(path)) for name, path in paths.items())
    for adapter in adapters:
        check_budget(adapter, options.lora_bytes)
    return adapters


def check_budget(adapter: Adapter, budget: int) -> None:
    """Raise `OptionError` if an adapter alone does not fit the memory for adapters."""
    if adapter.num_bytes > budget:
        raise OptionError(
            f"lora_memory {budget} B holds no adapter of {adapter.num_bytes} B, and "
            f"{adapter.name!r} is one: give at least {adapter.num_bytes} B."
        )
