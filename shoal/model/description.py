"""What is known of a model without its weights: tokenizer, limits, defaults, identity."""

from __future__ import annotations

import logging
import pickle
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.dynamic_module_utils import init_hf_modules

from shoal.config import (
    BUNDLED_MODEL,
    EngineOptions,
    Quantization,
    ReasoningParser,
    ToolCallParser,
    model_names,
)
from shoal.errors import ModelLoadError, OptionError, UnsupportedModelError
from shoal.model.activations import check_activations_by_name
from shoal.model.device_choice import check_device_count, chosen_device, chosen_dtype
from shoal.model.features import refuse_unsupported
from shoal.model.generation import read_generation, token_ids
from shoal.model.layer_sizes import stated, stored_numbers
from shoal.model.legacy_template import add_legacy_template
from shoal.model.lora.adapter_catalogue import job_adapters, refuse_adapters
from shoal.model.model_files import (
    check_source,
    fingerprint,
    lacks_tokenizer,
    reason,
    refuse_adapter,
)
from shoal.model.pooling import AskedPooling, Pooling, pooling_of
from shoal.model.quantization import check_quantization
from shoal.model.rotary import length_switch, refuse_mixed_switch, scaled_limit
from shoal.model.shards import kv_shards, refuse_unsplittable
from shoal.model.state_shapes import state_shapes
from shoal.model.stored_format import StoredFormat, check_stored, stored_format
from shoal.recurrence import StateShape
from shoal.scheduler import BLOCK_SIZE
from shoal.types import Adapter, LengthSwitch

_SIZES = {"num_attention_heads": True, "num_hidden_layers": True, "vocab_size": True}
_SIZES |= {"hidden_size": True, "num_key_value_heads": False, "head_dim": False}
_SIZES |= {"max_position_embeddings": False}
"""Sizes of a config, and whether each must be there."""

_REMEDIES = {
    "config": "Check its config.json.",
    "tokenizer": "Check its tokenizer files.",
    "weights": "Check its config.json and weight files.",
}

check_activations_by_name()

_log = logging.getLogger(__name__)


class Texts(Enum):
    """What is wanted of a model's tokenizer."""

    needed = "a model without one is refused"
    wanted = "it is read if it is there"
    unwanted = "it is not looked for"


@dataclass(frozen=True)
class ModelDescription:
    """A model's identity, tokenizer and limits.

    Attributes:
        tokenizer: None where the model has none, or none is wanted (see `Texts`): prompts are
            token ids then.
        id: the path or Hub id as given.
        name: its last part, one of the names `body.model` may use.
        generation_defaults: sampling defaults of its generation_config.json, under the names of
            `RequestParams`.
        eos_token_ids: tokens that end a sequence.
        max_model_len: most tokens of prompt and output together.
        kv_bytes_per_token: bytes of K and V of one token over all layers, on one device.
        states: the shape of each recurrent layer's state, by layer index.
        tensor_parallel: over how many devices, each with a process of its own, it is split.
        quantization: of the products of its layers.
        stored: the format of a quantised checkpoint; None: its weights are plain numbers.
        fingerprint: digest per file; it changes when the model does.
        trust_remote_code: whether Python files of the model's folder may run.
        pooling: what it gives of a prompt instead of an answer; None: it generates.
        tool_call_parser, reasoning_parser: in which form it calls tools and reasons, as asked for.
        whole_config: the checkpoint's config if `config` is only that of its text part.
        adapters: that requests may name instead of the model.
    """

    id: str
    name: str
    tokenizer: Tokenizer | None
    config: PreTrainedConfig
    dtype: torch.dtype
    device: torch.device
    eos_token_ids: tuple[int, ...]
    max_model_len: int
    vocab_size: int
    kv_bytes_per_token: int
    states: dict[int, StateShape] = field(default_factory=dict)
    generation_defaults: dict[str, Any] = field(default_factory=dict)
    fingerprint: dict[str, str] = field(default_factory=dict)
    tensor_parallel: int = 1
    quantization: Quantization = Quantization.none
    stored: StoredFormat | None = None
    trust_remote_code: bool = False
    pooling: Pooling | None = None
    tool_call_parser: ToolCallParser = ToolCallParser.auto
    reasoning_parser: ReasoningParser = ReasoningParser.auto
    whole_config: PreTrainedConfig | None = None
    adapters: tuple[Adapter, ...] = ()

    @classmethod
    def load(
        cls,
        model: str | None,
        options: EngineOptions,
        tokenizer_source: str | None = None,
        texts: Texts = Texts.needed,
        asked: AskedPooling | None = None,
    ) -> ModelDescription:
        """Read config and tokenizer of a local folder or Hub id; None: the bundled model.

        Args:
            tokenizer_source: a folder or Hub id where the tokenizer is, if it is another one.
            asked: what a model that does not generate is to give; None: it generates.

        Raises:
            ModelLoadError: a file is missing, unreadable or holds wrong values, or the folder
                holds an adapter, or needs code of its own that is not trusted.
            UnsupportedModelError: the config or the generation config asks for something we do
                not honour, or the weights are quantised in a format that cannot be read here, or
                the model cannot be split, or has parts that adapters are not applied to.
            OptionError: CUDA is asked for and absent, max_model_len exceeds the model's, or
                tensor_parallel does not fit the model or the machine, or there are fewer CUDA
                devices than asked for, or the quantization cannot be had here.
        """
        source = str(bundled_model_path()) if model is None else model
        trusted = options.trust_remote_code
        whole = _read_config(source, trusted)
        config = _text_config(whole, source)
        parts = options.tensor_parallel
        refuse_unsplittable(config, parts, whole)
        max_model_len = _max_model_len(config, options.max_model_len)
        refuse_mixed_switch(config, max_model_len)
        tokenizer = _read_tokenizer(source, tokenizer_source, trusted, texts)
        dtype = chosen_dtype(options.dtype, config)
        generation = read_generation(source)
        device = chosen_device(options, parts)
        check_device_count(device, options)
        check_quantization(options.quantization, device, dtype, parts)
        stored = _stored_format(whole, config, source, device)
        check_stored(stored, source, options.quantization, parts, bool(options.lora))
        pooling = None if asked is None else pooling_of(source, config, tokenizer, asked)
        if pooling is not None and parts > 1:
            raise OptionError(
                f"tensor_parallel {parts}: vectors, scores and classes come of a model that is "
                "whole; give devices, which each hold a copy."
            )
        if pooling is not None and config is not whole:
            raise UnsupportedModelError(
                "a vector of a checkpoint with towers",
                f"{source} has towers beside its language model; vectors, scores and classes are "
                "not read from such checkpoints. Its text can be generated.",
            )
        given, name = model_names(model)
        refuse_adapters(whole, options, pools=pooling is not None)
        return cls(
            id=given,
            name=name,
            tokenizer=tokenizer,
            config=config,
            dtype=dtype,
            device=device,
            eos_token_ids=_eos_token_ids(generation.eos_token_ids, config, tokenizer),
            max_model_len=max_model_len,
            vocab_size=int(config.vocab_size),
            kv_bytes_per_token=_kv_bytes_per_token(config, dtype) // kv_shards(config, parts),
            states=_states(config, parts),
            generation_defaults=generation.defaults,
            fingerprint=fingerprint(source),
            tensor_parallel=parts,
            quantization=options.quantization,
            stored=stored,
            trust_remote_code=trusted,
            pooling=pooling,
            tool_call_parser=options.tool_call_parser,
            reasoning_parser=options.reasoning_parser,
            whole_config=None if config is whole else whole,
            adapters=job_adapters(config, options, dtype, device, (given, name)),
        )

    def __reduce__(self) -> tuple[object, ...]:
        return _unpickled, (self.trust_remote_code, pickle.dumps(self.__dict__))

    def kv_blocks(self, kv_bytes: int) -> int:
        """KV blocks that fit `kv_bytes`, beside the state of one sequence if there are states.

        Raises:
            OptionError: not even one does.
        """
        block_bytes = BLOCK_SIZE * self.kv_bytes_per_token
        left = kv_bytes - self.state_bytes
        if left < block_bytes:
            beside = f" beside a state of {self.state_bytes} B" if self.state_bytes else ""
            raise OptionError(
                f"kv_memory {kv_bytes} B holds no KV block of {self.name}{beside}: give at least "
                f"{block_bytes + self.state_bytes} B, and enough for the longest request."
            )
        return left // block_bytes

    @property
    def state_bytes(self) -> int:
        """Bytes of the state of one sequence, in all recurrent layers; 0: there are none."""
        return sum(shape.nbytes(self.dtype) for shape in self.states.values())

    @property
    def length_switch(self) -> LengthSwitch | None:
        """From which length on it turns keys otherwise, if a request may be longer."""
        switch = length_switch(self.config)
        return None if switch is None or self.max_model_len <= switch.threshold else switch

    @property
    def checkpoint_config(self) -> PreTrainedConfig:
        """The config of all that the checkpoint holds, towers included."""
        return self.config if self.whole_config is None else self.whole_config

    @property
    def model_type(self) -> str:
        """transformers' name of the family, for messages."""
        return str(self.checkpoint_config.model_type)

    @property
    def source(self) -> str:
        """What transformers loads: a folder or a Hub id."""
        return str(bundled_model_path()) if self.id == BUNDLED_MODEL else self.id


def _unpickled(trusted: bool, fields: bytes) -> ModelDescription:
    """A description from another process, whose config may be of a class of the model's own."""
    if trusted:
        # Makes such classes importable here; transformers leaves it without types.
        init_hf_modules()  # type: ignore[no-untyped-call]
    return ModelDescription(**pickle.loads(fields))


def bundled_model_path() -> Path:
    """The folder of the model that ships with the package."""
    return Path(__file__).parents[1] / "models" / BUNDLED_MODEL


def _read_config(source: str, trusted: bool) -> PreTrainedConfig:
    check_source(source)
    config: PreTrainedConfig = _read(AutoConfig, source, "config", trusted)
    refuse_adapter(source)
    return config


def _text_config(config: PreTrainedConfig, source: str) -> PreTrainedConfig:
    """The config of the part that reads text, which a composite one holds among others."""
    if config.is_encoder_decoder:
        refuse_unsupported(config)
    text: PreTrainedConfig = config.get_text_config()
    refuse_unsupported(text)
    if text is not config:
        # What a composite says once, of all its parts.
        text.dtype = text.dtype or config.dtype
        text.tie_word_embeddings = getattr(config, "tie_word_embeddings", False)
    _check_sizes(text, source)
    return text


def _read_tokenizer(
    source: str, tokenizer_source: str | None, trusted: bool, texts: Texts
) -> Tokenizer | None:
    if texts is Texts.unwanted:
        return None
    if texts is Texts.wanted and tokenizer_source is None and lacks_tokenizer(source):
        _log.warning("%r holds no tokenizer: prompts are token ids, and texts are empty", source)
        return None
    read: Tokenizer = _read(AutoTokenizer, tokenizer_source or source, "tokenizer", trusted)
    add_legacy_template(read, tokenizer_source or source)
    return read


def _read(auto_class: Any, source: str, what: str, trusted: bool) -> Any:
    try:
        return auto_class.from_pretrained(source, trust_remote_code=trusted)
    except Exception as error:  # a broken file shows as any exception of several libraries
        _log.debug("cannot load the %s", what, exc_info=True)
        raise load_error(what, source, error) from error


def load_error(what: str, source: str, error: Exception) -> ModelLoadError:
    """What to raise where transformers cannot load a part of a model."""
    if "trust_remote_code" in str(error):
        return ModelLoadError(
            f"the {what} of {source!r} needs Python code of the model's own, which is not run "
            "unasked: read it, and give --trust-remote-code (trust_remote_code=True) if you trust "
            "it."
        )
    if what == "tokenizer" and lacks_tokenizer(source):
        return ModelLoadError(
            f"the folder {source!r} holds no tokenizer: copy tokenizer.json (or tokenizer.model) "
            "and tokenizer_config.json of the model it was made from into it. For prompts of token "
            "ids `LLM.generate` in Python needs none."
        )
    where = "folder" if Path(source).exists() else "model (no such folder, so taken as a Hub id)"
    return ModelLoadError(
        f"cannot load the {what} of {where} {source!r}: {reason(error)}. {_REMEDIES[what]}"
    )


def _check_sizes(config: PreTrainedConfig, source: str) -> None:
    """Raise `ModelLoadError` for sizes that no model has; transformers does not look."""
    if not isinstance(config.dtype, torch.dtype | None):
        raise ModelLoadError(f"config.json of {source!r}: {config.dtype!r} is no dtype. Mend it.")
    for name, needed in _SIZES.items():
        value = stated(config, name)
        if value is None and not needed:
            continue
        if type(value) is not int or value < 1:
            raise ModelLoadError(
                f"config.json of {source!r}: {name} must be a whole number of at least 1, not "
                f"{str(value)[:80]!r}. Copy the file again, or mend it."
            )


def _eos_token_ids(
    stated: tuple[int, ...] | None, config: PreTrainedConfig, tokenizer: Tokenizer | None
) -> tuple[int, ...]:
    own = getattr(config, "eos_token_id", None)
    for eos in (
        stated,
        token_ids(own, "config.json"),
        token_ids(getattr(tokenizer, "eos_token_id", None), "tokenizer"),
    ):
        if eos is not None:
            return eos
    return ()


def _max_model_len(config: PreTrainedConfig, wanted: int | None) -> int:
    limit = scaled_limit(config)
    if limit is None:
        if wanted is None:
            raise OptionError("this model states no length limit: give max_model_len")
        return wanted
    if wanted is not None and wanted > limit:
        raise OptionError(f"max_model_len {wanted} exceeds the model's own limit of {limit} tokens")
    return int(wanted or limit)


def _stored_format(
    whole: PreTrainedConfig, text: PreTrainedConfig, source: str, device: torch.device
) -> StoredFormat | None:
    """As transformers looks for it: in the checkpoint's config, then in that of its text part."""
    size = int(text.vocab_size)
    found = stored_format(whole, source, device.type, size)
    return found or stored_format(text, source, device.type, size)


def _states(config: PreTrainedConfig, parts: int) -> dict[int, StateShape]:
    states = state_shapes(config)
    if states and parts > 1:
        raise UnsupportedModelError(
            "tensor parallelism of recurrent layers",
            f"models of type {config.model_type!r} have recurrent layers, which are not split over "
            "devices. Run it on one device, or several copies of it with --devices.",
        )
    return states


def _kv_bytes_per_token(config: PreTrainedConfig, dtype: torch.dtype) -> int:
    return stored_numbers(config) * dtype.itemsize
