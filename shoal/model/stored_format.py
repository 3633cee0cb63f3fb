"""In which format the weights of a quantised checkpoint are stored, read off its config.

transformers reads them, by the quantizer of the format. Which formats are here are those whose
models were compared with `transformers` on the same checkpoint (`tests/model/test_quantized.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from transformers import PreTrainedConfig

from shoal.config import Quantization
from shoal.errors import OptionError, UnsupportedModelError
from shoal.model.stored_weights import StoredWeights, stored_weights

Stated = dict[str, Any]
"""The quantization_config of a config.json."""


@dataclass(frozen=True)
class StoredFormat:
    """How weights are stored, and what becomes of them.

    Attributes:
        method: transformers' name of the format.
        scheme: what is stored, in words.
        widened: whether they are in the model's dtype once they are loaded, in memory and in
            products; transformers does that where it has no products for the format.
        rounds_inputs: whether a layer rounds what it is given, too.
        weights: what the files hold; None: they are not on this machine yet.
    """

    method: str
    scheme: str
    widened: bool
    rounds_inputs: bool = False
    weights: StoredWeights | None = None

    def __str__(self) -> str:
        held = "widened to the model's dtype as they are loaded" if self.widened else "kept so"
        what = f"{self.method}, {self.scheme}; {held}"
        return what if self.weights is None else f"{what}; {self.weights}"


def stored_format(
    config: PreTrainedConfig, source: str, device: str, vocab_size: int
) -> StoredFormat | None:
    """The format of a checkpoint; None: it is not quantised.

    Args:
        config: of the checkpoint, or of its text part.
        source: a folder or Hub id, for messages and to look at its files.
        device: "cpu" or "cuda".
        vocab_size: tells embeddings and heads from layers, among the files' tensors.

    Raises:
        UnsupportedModelError: the format is not one of those that are proved, or a package that
            reads it is not installed.
    """
    if getattr(config, "compression_config", None) is not None:
        raise _refusal(
            source,
            "by compression_config, which transformers does not read any more",
            "Use a checkpoint whose config.json has a quantization_config",
        )
    stated = getattr(config, "quantization_config", None)
    if stated is None:
        return None
    method = _method(stated)
    known = _FORMATS.get(method)
    if known is None:
        raise _refusal(
            source,
            f"by {method}",
            f"Use the unquantised model, or one of these formats: {', '.join(_FORMATS)}",
        )
    _check_packages(source, method, known.packages)
    try:
        scheme, rounds_inputs = known.scheme(stated)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise _refusal(
            source, f"by {method}", "Its quantization_config cannot be read; copy config.json again"
        ) from error
    weights = stored_weights(source, vocab_size)
    if weights is not None and not weights.modules:
        raise _refusal(
            source,
            f"by {method}, as config.json says, but the weight files hold plain numbers",
            "Copy config.json and all weight files again, from one revision",
        )
    widened = known.widened(device, rounds_inputs)
    return StoredFormat(method, scheme, widened, rounds_inputs, weights)


def check_stored(
    stored: StoredFormat | None, source: str, quantization: Quantization, parts: int, adapters: bool
) -> None:
    """Refuse what does not go with a quantised checkpoint.

    Args:
        parts: devices that one model is split over.
        adapters: whether adapters are to be applied to it.

    Raises:
        OptionError: says which option.
    """
    if stored is None:
        return
    if adapters:
        raise OptionError(
            f"lora: the weights of {source!r} are quantised ({stored.method}), and adapters are "
            "not applied to such models yet. Give the unquantised model."
        )
    if parts > 1:
        raise OptionError(
            f"tensor_parallel {parts}: the weights of {source!r} are quantised ({stored.method}), "
            "and such models are not split over devices. Run it on one device, or several copies "
            "of it with devices."
        )
    if quantization is not Quantization.none and (stored.rounds_inputs or not stored.widened):
        raise OptionError(
            f"quantization {quantization}: the weights of {source!r} are quantised already "
            f"({stored.method}, {stored.scheme}), and run as they are. Leave it out."
        )


def _method(stated: object) -> str:
    """transformers' name, and which of bitsandbytes' two formats."""
    if not isinstance(stated, dict):
        return "?"
    if stated.get("load_in_8bit") or stated.get("load_in_4bit"):
        return "bitsandbytes"
    return str(stated.get("quant_method", "?"))


def _check_packages(source: str, method: str, packages: dict[str, str]) -> None:
    missing = [name for module, name in packages.items() if find_spec(module) is None]
    if missing:
        raise UnsupportedModelError(
            f"checkpoints quantised by {method}",
            f"the weights of {source!r} are quantised by {method}. What reads them is not "
            f"installed: pip install {' '.join(missing)}",
        )


def _refusal(source: str, how: str, remedy: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        "quantised checkpoint",
        f"the weights of {source!r} are quantised {how}: Shoal does not run such checkpoints. "
        f"{remedy}.",
    )


@dataclass(frozen=True)
class _Format:
    """What is known of a format.

    Attributes:
        packages: import name and pip name of those that read it.
        scheme: in words what a config states, and whether inputs are rounded.
        widened: see `StoredFormat`; of a device and of whether inputs are rounded.
    """

    packages: dict[str, str]
    scheme: Callable[[Stated], tuple[str, bool]]
    widened: Callable[[str, bool], bool]


def _compressed_tensors(stated: Stated) -> tuple[str, bool]:
    groups = list(stated["config_groups"].values())
    rounded = [group.get("input_activations") for group in groups]
    said = [
        _numbers(group["weights"], "weights")
        + ("" if inputs is None else f", {_numbers(inputs, 'inputs')}")
        for group, inputs in zip(groups, rounded, strict=True)
    ]
    return "; ".join(dict.fromkeys(said)), any(inputs is not None for inputs in rounded)


def _numbers(stated: Stated, what: str) -> str:
    kind = "floating-point" if stated["type"] == "float" else "integer"
    group = f" in groups of {stated['group_size']}" if stated.get("group_size") else ""
    scale = "" if group else f" per {stated['strategy']}"
    return f"{int(stated['num_bits'])}-bit {kind} {what}{group or scale}"


def _torchao(stated: Stated) -> tuple[str, bool]:
    names = [str(each["_type"]) for each in stated["quant_type"].values()]
    return ", ".join(names), any("Activation" in name for name in names)


def _bitsandbytes(stated: Stated) -> tuple[str, bool]:
    if stated.get("load_in_4bit"):
        return f"4-bit weights ({stated.get('bnb_4bit_quant_type', 'fp4')})", False
    threshold = float(stated.get("llm_int8_threshold", 6.0))
    apart = f", outliers from {threshold:g} on apart" if threshold else ""
    return f"8-bit integer weights and inputs{apart}", True


def _fp8(stated: Stated) -> tuple[str, bool]:
    block = stated.get("weight_block_size")
    size = "per tensor" if block is None else f"in blocks of {int(block[0])} x {int(block[1])}"
    return f"8-bit floating-point weights {size}", False


def _mxfp4(stated: Stated) -> tuple[str, bool]:
    return "experts in 4-bit floating-point in groups of 32", False


def _no(device: str, rounds_inputs: bool) -> bool:
    return False


def _on_the_cpu(device: str, rounds_inputs: bool) -> bool:
    return device == "cpu"


def _always(device: str, rounds_inputs: bool) -> bool:
    return True


_ACCELERATE = {"accelerate": "accelerate"}

_FORMATS = {
    "compressed-tensors": _Format(
        {"compressed_tensors": "compressed-tensors"}, _compressed_tensors, _always
    ),
    "torchao": _Format({"torchao": "torchao"}, _torchao, _no),
    "bitsandbytes": _Format({"bitsandbytes": "bitsandbytes"} | _ACCELERATE, _bitsandbytes, _no),
    "fp8": _Format(_ACCELERATE, _fp8, _on_the_cpu),
    "mxfp4": _Format(_ACCELERATE, _mxfp4, _on_the_cpu),
}
