"""Which files of a model's folder count, and whose code may run."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import shoal
from shoal import LLM, SamplingParams
from shoal.config import EngineOptions
from shoal.errors import ModelLoadError
from shoal.model.checkpoint import check_loaded
from shoal.model.description import ModelDescription
from shoal.model.load import load_model
from shoal.model.memory import enough_memory
from shoal.model.model_files import fingerprint
from tests.helpers.broken_models import change_tensors, write_json
from tests.helpers.models import greedy, save_model

GREEDY = SamplingParams(temperature=0.0, max_tokens=6)
PROMPT = [5, 6, 7]


def llm(folder: Path, **options: object) -> LLM:
    return LLM(str(folder), dtype="float32", device="cpu", kv_memory="16MiB", **options)


@pytest.mark.parametrize("tied", [True, False])
def test_weights_of_a_model_without_its_prefix_are_the_same(tmp_path: Path, tied: bool) -> None:
    folder = save_model(tmp_path / "model", "llama", tie_word_embeddings=tied)
    expected = greedy(folder, PROMPT, 6)

    def strip(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("model.")] = tensors.pop(name)

    change_tensors(folder, strip)
    assert list(llm(folder).generate([PROMPT], GREEDY)[0].outputs[0].token_ids) == expected


def test_tensors_the_model_does_not_use_are_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save_model(tmp_path / "model", "llama")
    extra = ["vision_tower.a.weight", "vision_tower.b.weight", "model.layers.2.eh_proj.weight"]
    change_tensors(folder, lambda t: t.update({name: torch.ones(3) for name in extra}))
    with caplog.at_level(logging.WARNING):
        load_model(ModelDescription.load(str(folder), EngineOptions(dtype="float32")))
    (line,) = [r.getMessage() for r in caplog.records if "does not use" in r.getMessage()]
    assert "vision_tower (2)" in line
    assert "model.layers.2 (1)" in line


def test_one_expert_that_is_missing_is_named(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", "qwen3_moe")
    change_tensors(
        folder, lambda t: [t.pop(name) for name in list(t) if "layers.1.mlp.experts.2.up" in name]
    )
    with pytest.raises(ModelLoadError, match=r"layers\.1\.mlp\.experts\.gate_up_proj"):
        load_model(ModelDescription.load(str(folder), EngineOptions(dtype="float32")))


def test_buffers_that_no_parameter_lies_beside_are_no_bias(
    caplog: pytest.LogCaptureFixture,
) -> None:
    module = torch.nn.ModuleDict({"attn": torch.nn.ModuleDict({"q": torch.nn.Linear(2, 2, False)})})
    info = {"missing_keys": set(), "mismatched_keys": set()}
    check_loaded(module, info | {"unexpected_keys": {"attn.masked_bias"}}, "m")
    with pytest.raises(ModelLoadError, match=r"without a place \(attn\.q\.bias\)"):
        check_loaded(module, info | {"unexpected_keys": {"attn.q.bias"}}, "m")


@pytest.mark.parametrize(
    "name",
    [
        *("pytorch_model.bin", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model"),
        *("spiece.model", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
        *("additional_chat_templates/tools.jinja", "qwen.tiktoken", "modeling_own.py"),
        *("model-00002-of-00002.safetensors", "sentencepiece.bpe.model"),
    ],
)
def test_what_transformers_may_read_is_in_the_fingerprint(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("a model")
    (tmp_path / "out.jsonl").write_text("{}")
    before = fingerprint(str(tmp_path))
    assert before.keys() == {"config.json"}
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("1")
    added = fingerprint(str(tmp_path))
    assert added.keys() == {"config.json", name}
    (tmp_path / name).write_text("2")
    assert fingerprint(str(tmp_path))[name] != added[name]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_memory_that_runs_out_is_said_in_words(error: Exception) -> None:
    with (
        pytest.raises(ModelLoadError, match="memory ran out loading m: take less"),
        enough_memory("loading m", "take less"),
    ):
        raise error


def test_a_pool_that_memory_cannot_hold_is_refused(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", "llama")
    with pytest.raises(ModelLoadError, match="KV pool: give a smaller --kv-memory"):
        LLM(
            str(folder),
            dtype="float32",
            device="cpu",
            kv_memory="900TiB",
            max_num_batched_tokens=64,
        )


OWN_CONFIG = """
import pathlib
from transformers import LlamaConfig
pathlib.Path({mark!r}).touch()
class OwnConfig(LlamaConfig):
    model_type = "own"
"""
OWN_MODEL = """
from transformers import LlamaForCausalLM
from .configuration_own import OwnConfig
class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A model with Python code of its own, and the file that shows that it ran."""
    folder, mark = save_model(tmp_path / "own", "llama"), tmp_path / "mark"
    names = {"AutoConfig": "configuration_own.OwnConfig"}
    names["AutoModelForCausalLM"] = "modeling_own.OwnForCausalLM"
    write_json(folder / "config.json", model_type="own", auto_map=names)
    (folder / "configuration_own.py").write_text(OWN_CONFIG.format(mark=str(mark)))
    (folder / "modeling_own.py").write_text(OWN_MODEL)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    return folder, mark


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    lines = folder.parent / "in.jsonl"
    lines.write_text(
        '{"custom_id": "a", "method": "POST", "url": "/v1/completions", '
        '"body": {"model": "own", "prompt": [5, 6, 7], "max_tokens": 6, "temperature": 0}}\n'
    )
    out = folder.parent / "out.jsonl"
    command = [sys.executable, "-m", "shoal", "run", str(lines), "-o", str(out), "--quiet"]
    command += ["--model", str(folder), "--dtype", "float32", "--token-budget", "64", *options]
    environment = os.environ | {"PYTHONPATH": str(Path(shoal.__file__).parents[1])}
    return subprocess.run(
        command, input="y\ny\ny\n", capture_output=True, text=True, env=environment, timeout=300
    )


def test_code_of_the_model_never_runs_unasked(own: tuple[Path, Path]) -> None:
    folder, mark = own
    done = run(folder)
    assert done.returncode == 1
    assert "--trust-remote-code" in done.stderr
    assert "Traceback" not in done.stderr
    assert not mark.exists()


def test_code_of_the_model_runs_when_asked(own: tuple[Path, Path]) -> None:
    folder, mark = own
    done = run(folder, "--trust-remote-code")
    assert done.returncode == 0, done.stderr
    assert mark.exists()
    assert (folder.parent / "out.jsonl").exists()


SEND = """
import pathlib, pickle, sys
from shoal.config import EngineOptions
from shoal.model.description import ModelDescription
description = ModelDescription.load(sys.argv[1], EngineOptions(trust_remote_code=True))
pathlib.Path(sys.argv[2]).write_bytes(pickle.dumps(description))
"""
RECEIVE = """
import pathlib, pickle, sys
print(type(pickle.loads(pathlib.Path(sys.argv[2]).read_bytes()).config).__name__)
"""


def test_a_config_of_the_models_own_class_reaches_other_processes(own: tuple[Path, Path]) -> None:
    folder, _ = own
    for script in (SEND, RECEIVE):
        command = [sys.executable, "-c", script, str(folder), str(folder.parent / "pickle")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    assert done.stdout == "OwnConfig\n"
