"""vLLM's `LoRARequest`: the adapter that prompts of a call run with."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.errors import OptionError


@dataclass(frozen=True)
class LoRARequest:
    """A LoRA adapter, for `lora_request` of `LLM.generate` and `LLM.chat`.

    Attributes:
        lora_name: what messages call it.
        lora_int_id: at least 1. vLLM tells adapters apart by it, Shoal by name and folder.
        lora_path: the folder that peft's `save_pretrained` wrote.
        base_model_name: what it was trained on; its adapter_config.json says that, too.

    Raises:
        OptionError: a value is none of these.
    """

    lora_name: str
    lora_int_id: int
    lora_path: str
    base_model_name: str | None = None

    def __post_init__(self) -> None:
        if type(self.lora_name) is not str or not self.lora_name:
            raise OptionError(f"lora_name must be a name, not {self.lora_name!r:.80}.")
        if type(self.lora_int_id) is not int or self.lora_int_id < 1:
            raise OptionError(f"lora_int_id must be at least 1, not {self.lora_int_id!r:.80}.")
        object.__setattr__(self, "lora_path", str(self.lora_path))
        if not self.lora_path:
            raise OptionError("lora_path must be the folder of an adapter.")
