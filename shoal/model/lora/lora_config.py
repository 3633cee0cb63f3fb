"""What an adapter's adapter_config.json says, as far as it changes results.

Field names and meanings are those of peft's `LoraConfig`. A field that this module does not know,
and that is set, refuses the adapter: it may change what the tensors mean.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from shoal.errors import ModelLoadError

CONFIG_FILE = "adapter_config.json"

_MERGE = "Merge it into its model (peft's merge_and_unload), and run that model."
_REFUSED = {
    "use_dora": "DoRA (use_dora), which rescales the model's own weights",
    "lora_bias": "a bias beside its matrices (lora_bias)",
    "modules_to_save": "whole modules of its own (modules_to_save)",
    "trainable_token_indices": "embeddings of its own (trainable_token_indices)",
    "layer_replication": "layers that occur several times (layer_replication)",
    "target_parameters": "weights that are no linear layer's (target_parameters)",
    "alora_invocation_tokens": "a beginning within the prompt (alora_invocation_tokens)",
    "fan_in_fan_out": "transposed weights (fan_in_fan_out)",
}
"""What an adapter may ask for and we do not apply."""
_KNOWN = {
    *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path"),
    *("revision", "inference_mode", "r", "target_modules", "exclude_modules", "lora_alpha"),
    *("lora_dropout", "bias", "use_rslora", "init_lora_weights", "layers_to_transform"),
    *("layers_pattern", "rank_pattern", "alpha_pattern", "ensure_weight_tying", "eva_config"),
    *("megatron_core", "runtime_config", "qalora_group_size", "loftq_config"),
}
"""Fields that are read below, or that say how it was trained and saved."""
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
"""Ways to begin training that leave the model's weights alone."""
_LAYER = re.compile(r"(?:.*\.)?[^.]*\.(\d+)\.")


@dataclass(frozen=True)
class LoraConfig:
    """The settings of one adapter.

    Attributes:
        name: what it is called, for messages.
        base: the model it was trained on, as it says; "" if it does not.
    """

    name: str
    base: str
    _fields: Mapping[str, Any]

    @classmethod
    def read(cls, name: str, fields: Mapping[str, Any]) -> LoraConfig:
        """Check the fields of a file.

        Raises:
            ModelLoadError: it is no LoRA adapter, or asks for something we do not apply.
        """
        kind = fields.get("peft_type")
        if kind != "LORA":
            raise ModelLoadError(
                f"adapter {name!r} is of type {kind!r}, and Shoal applies LORA. {_MERGE}"
            )
        for field, what in _REFUSED.items():
            if fields.get(field):
                raise ModelLoadError(f"adapter {name!r} has {what}, which is not applied. {_MERGE}")
        if (bias := fields.get("bias", "none")) != "none":
            raise ModelLoadError(
                f"adapter {name!r} has biases of its own (bias {bias!r}), which are not applied. "
                f"{_MERGE}"
            )
        start = fields.get("init_lora_weights", True)
        if start not in _PLAIN_STARTS:
            raise ModelLoadError(
                f"adapter {name!r} began with init_lora_weights {start!r}, which changes the "
                "model's own weights. Convert it (peft's save_pretrained with "
                "path_initial_model_for_weight_conversion), or merge it and run that model."
            )
        for field in sorted(fields.keys() - _KNOWN - _REFUSED.keys()):
            if fields[field]:
                raise ModelLoadError(
                    f"adapter {name!r} sets {field} in {CONFIG_FILE}, which is not known to be "
                    f"without effect. {_MERGE}"
                )
        _whole(name, "r", fields.get("r"))
        alpha = fields.get("lora_alpha")
        if not isinstance(alpha, int | float) or not math.isfinite(alpha):
            raise ModelLoadError(f"{CONFIG_FILE} of adapter {name!r}: lora_alpha is {alpha!r}.")
        return cls(name, str(fields.get("base_model_name_or_path") or ""), fields)

    def rank(self, module: str) -> int:
        """The rank of a module's matrices."""
        return int(self._of(module, "rank_pattern", "r"))

    def scale(self, module: str) -> float:
        """What a module's product is multiplied with."""
        rank, alpha = self.rank(module), float(self._of(module, "alpha_pattern", "lora_alpha"))
        return alpha / (math.sqrt(rank) if self._fields.get("use_rslora") else rank)

    def targets(self, modules: Collection[str]) -> set[str]:
        """Which of a model's linear layers, the head not among them, it is for."""
        wanted = self._fields.get("target_modules")
        chosen = {module for module in modules if wanted and _matches(wanted, module)}
        excluded = self._fields.get("exclude_modules")
        if excluded:
            chosen = {module for module in chosen if not _matches(excluded, module)}
        layers = self._fields.get("layers_to_transform")
        if layers is not None:
            numbers = {layers} if isinstance(layers, int) else set(layers)
            chosen = {module for module in chosen if _layer_of(module) in numbers}
        return chosen

    def _of(self, module: str, pattern: str, plain: str) -> Any:
        """A value that patterns give some modules: the first that matches, as in peft."""
        patterns = self._fields.get(pattern) or {}
        for key, value in patterns.items():
            if re.match(rf"(.*\.)?({key})$", module):
                return value
        return self._fields[plain]


def _matches(wanted: str | Collection[str], module: str) -> bool:
    if isinstance(wanted, str):
        return wanted == "all-linear" or re.fullmatch(wanted, module) is not None
    return any(module == each or module.endswith(f".{each}") for each in wanted)


def _layer_of(module: str) -> int | None:
    found = _LAYER.match(module)
    return None if found is None else int(found[1])


def _whole(name: str, field: str, value: object) -> None:
    if type(value) is not int or value < 1:
        raise ModelLoadError(
            f"{CONFIG_FILE} of adapter {name!r}: {field} must be a whole number of at least 1, not "
            f"{value!r}."
        )
