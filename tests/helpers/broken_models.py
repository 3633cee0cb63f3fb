"""Ways to break a model's folder, each a function that spoils a whole one in place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Breaker = Callable[[Path], None]

CONFIG, GENERATION = "config.json", "generation_config.json"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
GONE = object()

WRONG_CONFIG: list[tuple[str, Any]] = [
    *(("hidden_size", value) for value in ("32", 0, -32, None, 31.5, [32], 33, 64)),
    *(("num_attention_heads", value) for value in ("4", 0, -4, None, 3, 5)),
    *(("num_hidden_layers", value) for value in ("2", 0, -2, None, 3, [2])),
    *(("num_key_value_heads", value) for value in (0, "2", -2, 3, 8)),
    *(("head_dim", value) for value in (0, -8, "8", 7, 16)),
    *(("vocab_size", value) for value in ("256", 0, -1, None, 255, 512)),
    *(("intermediate_size", value) for value in (0, "48", 47, None)),
    *(("max_position_embeddings", value) for value in ("256", 0, -1)),
    *(("model_type", value) for value in (GONE, "no_such_type", 3, None, "gpt2", "t5", "mamba")),
    *(("rope_parameters", value) for value in ("x", {"rope_type": "no_such"}, {"rope_type": 3}, 7)),
    *(("hidden_act", value) for value in ("no_such", 3)),
    *(("eos_token_id", value) for value in ("1", [1, "2"], {"a": 1})),
    *(("dtype", value) for value in ("float99", 32)),
    *(("layer_types", value) for value in (["no_such", "no_such"], 3)),
    ("rms_norm_eps", "x"),
    ("quantization_config", {"quant_method": "gptq", "bits": 4}),
    ("quantization_config", {"quant_method": "fp8"}),
    ("quantization_config", "int4"),
    ("compression_config", {"quant_method": "compressed-tensors"}),
]

WRONG_GENERATION: list[tuple[str, Any]] = [
    *(("temperature", value) for value in ("0.7", -1, [1], True)),
    *(("top_k", value) for value in (1.5, "50")),
    *(("max_new_tokens", value) for value in (-1, "9")),
    *(("eos_token_id", value) for value in ("1", [None], 1.5)),
    ("do_sample", "yes"),
    ("stop_strings", [3]),
    ("num_beams", 4),
    ("suppress_tokens", [5]),
]


def write_json(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file; `GONE` takes one out."""
    fields = json.loads(path.read_text()) if path.exists() else {}
    fields.update(changes)
    path.write_text(json.dumps({k: v for k, v in fields.items() if v is not GONE}))


def _field(file: str, name: str, value: Any) -> Breaker:
    return lambda folder: write_json(folder / file, **{name: value})


def _content(file: str, data: bytes) -> Breaker:
    return lambda folder: (folder / file).write_bytes(data) and None


def _without(*files: str) -> Breaker:
    return lambda folder: [(folder / file).unlink() for file in files] and None


def _cut(file: str, share: float) -> Breaker:
    def cut(folder: Path) -> None:
        data = (folder / file).read_bytes()
        (folder / file).write_bytes(data[: int(len(data) * share)])

    return cut


def _loop(file: str) -> Breaker:
    def loop(folder: Path) -> None:
        (folder / file).unlink()
        (folder / file).symlink_to(file)

    return loop


def _as_folder(file: str) -> Breaker:
    def replace(folder: Path) -> None:
        (folder / file).unlink()
        (folder / file).mkdir()

    return replace


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Rewrite the weights after `change`."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def _tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Breaker:
    return lambda folder: change_tensors(folder, change)


def _misshaped(name: str, *shape: int) -> Breaker:
    return _tensors(lambda tensors: tensors.update({name: torch.ones(shape)}))


def _stored_as(dtype: torch.dtype) -> Breaker:
    name = "model.layers.0.mlp.up_proj.weight"
    return _tensors(lambda tensors: tensors.update({name: tensors[name].to(dtype)}))


def _renamed(tensors: dict[str, torch.Tensor]) -> None:
    for name in list(tensors):
        tensors[f"language_model.{name}"] = tensors.pop(name)


def _header(change: Callable[[dict[str, Any]], None]) -> Breaker:
    """Change the JSON header of the safetensors file and leave the data as it is."""

    def spoil(folder: Path) -> None:
        data = (folder / WEIGHTS).read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        change(header)
        written = json.dumps(header).encode()
        (folder / WEIGHTS).write_bytes(
            len(written).to_bytes(8, "little") + written + data[8 + length :]
        )

    return spoil


def _index(weight_map: Any) -> Breaker:
    def split(folder: Path) -> None:
        (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))

    return split


def _pickled(data: bytes) -> Breaker:
    def replace(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        (folder / "pytorch_model.bin").write_bytes(data)

    return replace


def _only_adapter(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    write_json(folder / "adapter_config.json", peft_type="LORA", base_model_name_or_path="x/y")


def _gguf(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    (folder / "model.gguf").write_bytes(b"GGUF")


def breakers() -> Iterator[tuple[str, Breaker]]:
    """Name and function of each way."""
    for file in (CONFIG, GENERATION, TOKENIZER, TOKENIZER_CONFIG):
        yield f"{file} empty", _content(file, b"")
        yield f"{file} half", _cut(file, 0.5)
        yield f"{file} not utf-8", _content(file, b'{"a": "\xff\xfe"}')
        yield f"{file} a list", _content(file, b"[]")
        yield f"{file} nested", _content(file, b"[" * 100_000)
        yield f"{file} a loop", _loop(file)
    for file in (CONFIG, TOKENIZER, WEIGHTS):
        yield f"{file} a folder", _as_folder(file)
    yield f"{CONFIG} gone", _without(CONFIG)
    yield f"{CONFIG} no object", _content(CONFIG, b"null")
    yield f"{CONFIG} {{}}", _content(CONFIG, b"{}")
    for name, value in WRONG_CONFIG:
        shown = "gone" if value is GONE else repr(value)
        yield f"{name} {shown}", _field(CONFIG, name, value)
    for name, value in WRONG_GENERATION:
        yield f"generation {name} {value!r}", _field(GENERATION, name, value)
    yield "tokenizer gone", _without(TOKENIZER, TOKENIZER_CONFIG)
    yield "tokenizer no model", _content(TOKENIZER, b'{"version": "1.0"}')
    yield "tokenizer class 3", _field(TOKENIZER_CONFIG, "tokenizer_class", 3)
    yield from _broken_weights()
    yield "only an adapter", _only_adapter
    yield "an adapter too", _content("adapter_config.json", b'{"peft_type": "LORA"}')
    yield "gguf", _gguf
    yield "empty", lambda folder: [path.unlink() for path in folder.iterdir()] and None
    yield "nothing", lambda folder: shutil.rmtree(folder)


def _broken_weights() -> Iterator[tuple[str, Breaker]]:
    yield "weights gone", _without(WEIGHTS)
    yield "weights empty", _content(WEIGHTS, b"")
    yield "weights no header", _content(WEIGHTS, b"\x00" * 100)
    yield "weights huge header", _content(WEIGHTS, b"\xff" * 100)
    for share in (0.1, 0.5, 0.99):
        yield f"weights cut at {share}", _cut(WEIGHTS, share)
    yield "weights a loop", _loop(WEIGHTS)
    yield "header dtype", _header(lambda h: h["model.norm.weight"].update(dtype="F99"))
    yield "header wider", _header(lambda h: h["model.norm.weight"].update(dtype="F64"))
    yield "header shape", _header(lambda h: h["model.norm.weight"].update(shape=[1000]))
    yield "header offsets", _header(lambda h: h["model.norm.weight"].update(data_offsets=[0, 4]))
    yield "tensor gone", _tensors(lambda t: t.pop("model.norm.weight"))
    yield "head gone", _tensors(lambda t: t.pop("lm_head.weight"))
    yield "embeddings gone", _tensors(lambda t: t.pop("model.embed_tokens.weight"))
    yield "no tensors", _tensors(lambda t: t.clear())
    yield "layer gone", _tensors(lambda t: [t.pop(name) for name in list(t) if "layers.1" in name])
    yield "misshaped vector", _misshaped("model.norm.weight", 31)
    yield "misshaped matrix", _misshaped("model.layers.0.mlp.up_proj.weight", 32, 48)
    yield "scalar", _misshaped("model.norm.weight")
    yield "bias too many", _misshaped("model.layers.0.self_attn.q_proj.bias", 32)
    yield "scale too many", _misshaped("model.layers.0.self_attn.q_proj.weight_scale", 1)
    yield "renamed", _tensors(_renamed)
    for dtype in (torch.int8, torch.uint8, torch.bool, torch.int32, torch.float8_e4m3fn):
        yield f"stored as {dtype}", _stored_as(dtype)
    shard = "model-00001-of-00002.safetensors"
    yield "index without shard", _index({"a": shard, "b": shard.replace("00001-of", "00002-of")})
    yield "index empty", _index({})
    yield "index of numbers", _index({"a": 1})
    yield "index no map", _index(None)
    yield "pickle garbage", _pickled(b"garbage")
    yield "pickle empty", _pickled(b"")
