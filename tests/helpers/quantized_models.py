"""Tiny checkpoints in quantised formats, written by the packages that people write them with."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.helpers.models import byte_tokenizer, save_model

SIZES = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
_GROUP = 32

Maker = Callable[[Path], None]


def _dense(folder: Path, architecture: str = "llama") -> Any:
    save_model(folder, architecture, **SIZES)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def _compressed_tensors(folder: Path, weights: dict[str, Any], inputs: Any, format_: str) -> None:
    """As llm-compressor writes them, rounded to the nearest."""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationConfig,
        QuantizationStatus,
        apply_quantization_config,
    )
    from compressed_tensors.quantization.utils import calculate_qparams

    model = _dense(folder)
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    config = QuantizationConfig(
        config_groups={"group_0": group}, ignore=["lm_head"], format=format_
    )
    apply_quantization_config(model, config)
    for module in model.modules():
        scheme = getattr(module, "quantization_scheme", None)
        if scheme is None:
            continue
        module.quantization_status = QuantizationStatus.FROZEN
        rows = module.weight.detach()
        if scheme.weights.strategy == "group":
            rows = rows.unflatten(1, (-1, _GROUP))
        scale, zero = calculate_qparams(rows.amin(-1), rows.amax(-1), scheme.weights)
        module.weight_scale.data.copy_(scale.view_as(module.weight_scale))
        if hasattr(module, "weight_zero_point"):
            module.weight_zero_point.data.copy_(zero.view_as(module.weight_zero_point))
        if hasattr(module, "input_scale"):
            module.input_scale.data.fill_(0.05)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(str(folder))


def _torchao(folder: Path, config: str, **keywords: Any) -> None:
    from torchao import quantization
    from transformers import TorchAoConfig

    _dense(folder)
    asked = TorchAoConfig(getattr(quantization, config)(**keywords))
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=asked
    )
    model.save_pretrained(folder)


def _bitsandbytes(folder: Path, **keywords: Any) -> None:
    from transformers import BitsAndBytesConfig

    _dense(folder)
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        device_map={"": "cpu"},
        quantization_config=BitsAndBytesConfig(**keywords),
    )
    model.save_pretrained(folder)


def _fine_grained_fp8(folder: Path) -> None:
    """As DeepSeek's: a scale for each block of a weight."""
    block = 32
    _dense(folder)
    path = folder / "model.safetensors"
    tensors = {}
    for name, value in load_file(path).items():
        tensors[name] = value
        if value.ndim == 2 and "layers" in name:
            blocks = value.unflatten(0, (-1, block)).unflatten(2, (-1, block))
            scale = blocks.abs().amax(dim=(1, 3)) / 448
            stored = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn)
            tensors[name] = stored.view_as(value)
            tensors[f"{name}_scale_inv"] = scale
    save_file(tensors, path, metadata={"format": "pt"})
    _write_config(
        folder,
        {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [block] * 2},
    )


def _mxfp4(folder: Path) -> None:
    """gpt-oss's: experts in 4 bits, an exponent for each 32."""
    save_model(folder, "gpt_oss", **SIZES)
    path = folder / "model.safetensors"
    torch.manual_seed(3)
    tensors = {}
    for name, value in load_file(path).items():
        if name.endswith(("gate_up_proj", "down_proj")):
            experts, inputs, outputs = value.shape
            blocks = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8)
            tensors[f"{name}_blocks"] = blocks
            tensors[f"{name}_scales"] = torch.randint(
                123, 126, (experts, outputs, inputs // 32), dtype=torch.uint8
            )
        else:
            tensors[name] = value
    save_file(tensors, path, metadata={"format": "pt"})
    _write_config(folder, {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]})


def _write_config(folder: Path, quantization: dict[str, Any]) -> None:
    path = folder / "config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "quantization_config": quantization})
    )


def _integers(bits: int, strategy: str, **more: Any) -> dict[str, Any]:
    return {"num_bits": bits, "type": "int", "symmetric": True, "strategy": strategy, **more}


def _floats(strategy: str, **more: Any) -> dict[str, Any]:
    return {"num_bits": 8, "type": "float", "symmetric": True, "strategy": strategy, **more}


_PER_TOKEN = {"dynamic": True}
FORMATS: dict[str, Maker] = {
    "compressed-tensors W8A16": partial(
        _compressed_tensors, weights=_integers(8, "channel"), inputs=None, format_="pack-quantized"
    ),
    "compressed-tensors W4A16": partial(
        _compressed_tensors, weights=_integers(4, "group", group_size=_GROUP), inputs=None,
        format_="pack-quantized",
    ),
    "compressed-tensors W8A8": partial(
        _compressed_tensors, weights=_integers(8, "channel"),
        inputs=_integers(8, "token", **_PER_TOKEN), format_="int-quantized",
    ),
    "compressed-tensors W8A8 per tensor": partial(
        _compressed_tensors, weights=_integers(8, "channel"),
        inputs=_integers(8, "tensor", **_PER_TOKEN), format_="int-quantized",
    ),
    "compressed-tensors W8A8 static": partial(
        _compressed_tensors, weights=_integers(8, "channel"), inputs=_integers(8, "tensor"),
        format_="int-quantized",
    ),
    "compressed-tensors FP8 dynamic": partial(
        _compressed_tensors, weights=_floats("channel"), inputs=_floats("token", **_PER_TOKEN),
        format_="float-quantized",
    ),
    "torchao int8": partial(_torchao, config="Int8WeightOnlyConfig"),
    "torchao intx in 8 bits": partial(_torchao, config="IntxWeightOnlyConfig"),
    "torchao int8 dynamic": partial(_torchao, config="Int8DynamicActivationInt8WeightConfig"),
    "torchao float8": partial(_torchao, config="Float8WeightOnlyConfig"),
    "bitsandbytes 8 bits": partial(_bitsandbytes, load_in_8bit=True),
    "bitsandbytes 8 bits no outliers": partial(
        _bitsandbytes, load_in_8bit=True, llm_int8_threshold=0.0
    ),
    "bitsandbytes nf4": partial(
        _bitsandbytes, load_in_4bit=True, bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float32,
    ),
    "fp8": _fine_grained_fp8,
    "mxfp4": _mxfp4,
}  # fmt: skip


def save_quantized(folder: Path, format_: str) -> Path:
    """Write a tiny checkpoint of a format of `FORMATS`."""
    FORMATS[format_](folder)
    byte_tokenizer().save_pretrained(folder)
    return folder
