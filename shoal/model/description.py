"""What is known of a model without its weights: tokenizer, limits, defaults, identity."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedConfig
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.utils.hub import cached_file

from shoal.config import Device, Dtype, EngineOptions, Quantization
from shoal.errors import ModelLoadError, OptionError
from shoal.model.features import refuse_unsupported, refuse_unsupported_length
from shoal.model.quantization import check_quantization
from shoal.model.shards import kv_shards, refuse_unsplittable
from shoal.scheduler import BLOCK_SIZE

BUNDLED_MODEL = "shoal-tiny"
"""The model that runs when none is named; it ships inside the package."""

_FINGERPRINT_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
)
_WEIGHTS = "*.safetensors"
_WHOLE_DIGEST_LIMIT = 64 * 2**20
"""Files up to this many bytes are hashed whole; of larger ones size, head and tail."""


@dataclass(frozen=True)
class ModelDescription:
    """A model's identity, tokenizer and limits.

    Attributes:
        id: the path or Hub id as given.
        name: its last part, one of the names `body.model` may use.
        generation_defaults: sampling defaults of its generation_config.json, under the names of
            `SamplingParams`.
        eos_token_ids: tokens that end a sequence.
        max_model_len: most tokens of prompt and output together.
        kv_bytes_per_token: bytes of K and V of one token over all layers, on one device.
        tensor_parallel: over how many devices, each with a process of its own, it is split.
        quantization: of the products of its layers.
        fingerprint: digest per file; it changes when the model does.
    """

    id: str
    name: str
    tokenizer: Tokenizer
    config: PreTrainedConfig
    dtype: torch.dtype
    device: torch.device
    eos_token_ids: tuple[int, ...]
    max_model_len: int
    vocab_size: int
    kv_bytes_per_token: int
    generation_defaults: dict[str, Any] = field(default_factory=dict)
    fingerprint: dict[str, str] = field(default_factory=dict)
    tensor_parallel: int = 1
    quantization: Quantization = Quantization.none

    @classmethod
    def load(cls, model: str | None, options: EngineOptions) -> ModelDescription:
        """Read config and tokenizer of a local folder or Hub id; None: the bundled model.

        Raises:
            ModelLoadError: config or tokenizer cannot be read.
            UnsupportedModelError: the config asks for attention we do not honour, or the model
                cannot be split.
            OptionError: CUDA is asked for and absent, max_model_len exceeds the model's, or
                tensor_parallel does not fit the model or the machine, or there are fewer CUDA
                devices than asked for, or the quantization cannot be had here.
        """
        source = str(bundled_model_path()) if model is None else model
        config = _read(AutoConfig, source, "config").get_text_config()
        refuse_unsupported(config)
        parts = options.tensor_parallel
        refuse_unsplittable(config, parts)
        max_model_len = _max_model_len(config, options.max_model_len)
        refuse_unsupported_length(config, max_model_len)
        tokenizer = _read(AutoTokenizer, source, "tokenizer")
        dtype = _dtype(options.dtype, config)
        generation = _generation_config(source)
        device = _device(options.device, parts)
        _check_devices(device, options.devices)
        check_quantization(options.quantization, device, dtype, parts)
        return cls(
            id=model or BUNDLED_MODEL,
            name=Path(source.rstrip("/")).name,
            tokenizer=tokenizer,
            config=config,
            dtype=dtype,
            device=device,
            eos_token_ids=_eos_token_ids(generation, config, tokenizer),
            max_model_len=max_model_len,
            vocab_size=int(config.vocab_size),
            kv_bytes_per_token=_kv_bytes_per_token(config, dtype) // kv_shards(config, parts),
            generation_defaults=_sampling_defaults(generation),
            fingerprint=_fingerprint(source),
            tensor_parallel=parts,
            quantization=options.quantization,
        )

    def kv_blocks(self, kv_bytes: int) -> int:
        """KV blocks that fit `kv_bytes`.

        Raises:
            OptionError: not even one does.
        """
        block_bytes = BLOCK_SIZE * self.kv_bytes_per_token
        if kv_bytes < block_bytes:
            raise OptionError(
                f"kv_memory {kv_bytes} B holds no KV block of {self.name}: give at least "
                f"{block_bytes} B, and enough for the longest request."
            )
        return kv_bytes // block_bytes

    @property
    def source(self) -> str:
        """What transformers loads: a folder or a Hub id."""
        return str(bundled_model_path()) if self.id == BUNDLED_MODEL else self.id


def bundled_model_path() -> Path:
    """The folder of the model that ships with the package."""
    return Path(__file__).parents[1] / "models" / BUNDLED_MODEL


def _read(auto_class: Any, source: str, what: str) -> Any:
    try:
        return auto_class.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        where = (
            "folder" if Path(source).exists() else "model (no such folder, so taken as a Hub id)"
        )
        raise ModelLoadError(
            f"cannot load the {what} of {where} {source!r}: {str(error).splitlines()[0]}"
        ) from error


def _generation_config(source: str) -> GenerationConfig:
    try:
        return GenerationConfig.from_pretrained(source)
    except OSError:
        return GenerationConfig.from_dict({})  # the file is optional


def _sampling_defaults(generation: GenerationConfig) -> dict[str, Any]:
    """The sampling parameters the model's makers recommend; only those the file states."""
    stated = generation.to_diff_dict()
    if stated.get("do_sample") is False:
        return {"temperature": 0.0}
    kinds = {"temperature": float, "top_p": float, "top_k": int, "min_p": float}
    kinds["repetition_penalty"] = float
    return {
        name: kind(stated[name]) for name, kind in kinds.items() if stated.get(name) is not None
    }


def _eos_token_ids(
    generation: GenerationConfig, config: PreTrainedConfig, tokenizer: Tokenizer
) -> tuple[int, ...]:
    for eos in (generation.eos_token_id, config.eos_token_id, tokenizer.eos_token_id):
        if eos is not None:
            return tuple(int(token) for token in (eos if isinstance(eos, list) else [eos]))
    return ()


def _max_model_len(config: PreTrainedConfig, wanted: int | None) -> int:
    limit = getattr(config, "max_position_embeddings", None)
    if limit is None:
        if wanted is None:
            raise OptionError("this model states no length limit: give max_model_len")
        return wanted
    if wanted is not None and wanted > limit:
        raise OptionError(f"max_model_len {wanted} exceeds the model's own limit of {limit} tokens")
    return int(wanted or limit)


def _dtype(wanted: Dtype, config: PreTrainedConfig) -> torch.dtype:
    if wanted is Dtype.auto:
        return config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    dtype: torch.dtype = getattr(torch, wanted)
    return dtype


def _device(wanted: Device, parts: int) -> torch.device:
    """The device, or the kind of the `parts` devices."""
    if wanted is Device.cuda and not torch.cuda.is_available():
        raise OptionError("device cuda: torch sees no CUDA device here; use --device cpu")
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(auto if wanted is Device.auto else str(wanted))
    if device.type == "cuda" and parts > torch.cuda.device_count():
        raise OptionError(
            f"tensor_parallel {parts}: torch sees only {torch.cuda.device_count()} CUDA devices."
        )
    if device.type == "cpu" and parts > 1 and torch.accelerator.is_available():
        raise OptionError(
            "tensor_parallel on the CPU: transformers splits a model over the accelerators it "
            "sees, whatever the device. Hide them first: CUDA_VISIBLE_DEVICES= shoal ..."
        )
    return device


def _check_devices(device: torch.device, wanted: int) -> None:
    """Raise `OptionError` where there are fewer CUDA devices than wanted."""
    if device.type == "cuda" and wanted > torch.cuda.device_count():
        raise OptionError(
            f"devices {wanted}: torch sees {torch.cuda.device_count()} CUDA device(s) here; give "
            "at most that many."
        )


def _kv_bytes_per_token(config: PreTrainedConfig, dtype: torch.dtype) -> int:
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return int(2 * config.num_hidden_layers * kv_heads * head_dim * dtype.itemsize)


def _fingerprint(source: str) -> dict[str, str]:
    """Digests of a folder's files; of a Hub id the revision in use, which stands for its files."""
    folder = Path(source)
    if not folder.is_dir():
        config = cached_file(source, "config.json")
        return {"revision": Path(str(config)).parent.name}
    paths = [folder / name for name in _FINGERPRINT_FILES] + sorted(folder.glob(_WEIGHTS))
    return {path.name: _digest(path) for path in paths if path.is_file()}


def _digest(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with path.open("rb") as file:
        if size <= _WHOLE_DIGEST_LIMIT:
            digest.update(file.read())
        else:
            digest.update(file.read(_WHOLE_DIGEST_LIMIT // 2))
            file.seek(-_WHOLE_DIGEST_LIMIT // 2, 2)
            digest.update(file.read())
    return digest.hexdigest()
