"""The language model of a checkpoint that holds towers for images or sound besides.

Such a checkpoint's class in transformers is kept, so its tensors' names, its forward and its heads
are its own. Its towers are taken out before weights are read: what has no place is not read.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import AutoModel, PreTrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_MULTIMODAL_LM_MAPPING,
)

from shoal.errors import UnsupportedModelError

_MAPPINGS: tuple[Any, ...] = (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_MULTIMODAL_LM_MAPPING,
)
"""transformers' tables of config classes and model classes, the first that knows one counts."""


def text_part_class(config: PreTrainedConfig) -> type[Any] | None:
    """The class that loads only the language model of a checkpoint.

    None: the config is of text alone, or of a model that transformers itself takes the text from,
    or of one whose class it does not know.
    """
    if config.get_text_config() is config:
        return None
    whole = next((table[type(config)] for table in _MAPPINGS if type(config) in table), None)
    if whole is None or whole.config_class is not type(config):
        return None
    return _without_towers(whole)


def refuse_unknown_class(config: PreTrainedConfig) -> None:
    """Raise `UnsupportedModelError` if transformers has no class that makes text of a config."""
    if getattr(config, "auto_map", None) or any(type(config) in table for table in _MAPPINGS):
        return
    raise UnsupportedModelError(
        "no language model",
        f"models of type {config.model_type!r} make no text: transformers has no class with "
        "logits over tokens for them. Use a language model.",
    )


def _without_towers(whole: type[Any]) -> type[Any]:
    def make(self: Any, config: PreTrainedConfig, *args: Any, **keywords: Any) -> None:
        try:
            whole.__init__(self, config, *args, **keywords)
        except ImportError:
            # A tower needs a package that is not here. Nobody needs the tower (Gemma 3n).
            with _towers_left_out(config):
                whole.__init__(self, config, *args, **keywords)
        remove_towers(self)

    # transformers finds the conversions of a checkpoint's names by the class's name and module.
    own = {"__init__": make, "__module__": whole.__module__, "__qualname__": whole.__qualname__}
    return type(whole.__name__, (whole,), own)


_making = threading.Lock()


@contextmanager
def _towers_left_out(config: PreTrainedConfig) -> Iterator[None]:
    """In this block transformers' `AutoModel` makes only the language model of a config."""
    # transformers leaves it without types.
    auto: Any = AutoModel
    text, own = config.get_text_config(), auto.from_config

    def from_config(part: PreTrainedConfig, **keywords: Any) -> Any:
        return own(part, **keywords) if part is text else nn.Identity()

    with _making:
        auto.from_config = from_config
        try:
            yield
        finally:
            # It is inherited: what was put before it goes.
            del auto.from_config


def remove_towers(model: Any) -> None:
    """Take out of a model what does not lead to its language model, nor from it to logits."""
    language, head = model.get_decoder(), model.get_output_embeddings()
    holder: Any = model
    while holder is not language:
        children = dict(holder.named_children())
        following = next(part for part in children.values() if _holds(part, language))
        for name, part in children.items():
            if part is not following and part is not head and not _embeds_tokens(part):
                delattr(holder, name)
        holder = following


def _embeds_tokens(part: nn.Module) -> bool:
    """Whether it takes token ids: Gemma 3n's tokens of images and sound have tables beside."""
    return "input_ids" in inspect.signature(part.forward).parameters


def _holds(part: nn.Module, wanted: nn.Module) -> bool:
    return any(inner is wanted for inner in part.modules())
