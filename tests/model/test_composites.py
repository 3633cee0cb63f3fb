"""Checkpoints with towers run as text: tokens equal those of transformers' composite model.

Every threshold their text parts name is at 16 or 64 tokens; prompts and answers go past it.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from typer.testing import CliRunner

from shoal import LLM
from shoal.cli import app
from shoal.config import EngineOptions
from shoal.errors import ModelLoadError, UnsupportedModelError
from shoal.model.description import ModelDescription
from shoal.model.load import load_model
from shoal.model.text_part import text_part_class
from shoal.scheduler import BLOCK_SIZE
from tests.helpers.combinations import WHOLE, in_turn
from tests.helpers.composites import COMPOSITES, greedy_composite, save_composite
from tests.helpers.models import KINDS, byte_tokenizer, forest_of_prompts, greedy, save_model
from tests.model.test_kinds import NEW_TOKENS, SETTINGS, answers

THREE = ["gemma3", "qwen3_vl", "mistral3 of ministral3"]
"""Windows and tokens of images that attend both ways; positions in three sections; query scales
that depend on the position."""
OPTIONS = EngineOptions(dtype="float32", device="cpu")


def expected_of(model: Path, prompts: list[list[int]]) -> list[list[int]]:
    return [greedy_composite(model, prompt, NEW_TOKENS) for prompt in prompts]


@pytest.mark.parametrize("family", COMPOSITES)
def test_equals_the_composite(tmp_path: Path, family: str) -> None:
    model, prompts = save_composite(tmp_path, family), forest_of_prompts(4, trees=1)
    assert max(map(len, prompts)) + NEW_TOKENS > 64
    assert answers(model, prompts, max_num_batched_tokens=65) == expected_of(model, prompts)


@WHOLE
@pytest.mark.parametrize("family", THREE)
def test_equals_the_composite_however_it_is_shared(
    tmp_path: Path, family: str, whole: bool
) -> None:
    model, prompts = save_composite(tmp_path, family), forest_of_prompts(1, trees=1)
    expected = expected_of(model, prompts)
    block = ModelDescription.load(str(model), OPTIONS).kv_bytes_per_token * BLOCK_SIZE
    largest = -(-(max(map(len, prompts)) + NEW_TOKENS - 1) // BLOCK_SIZE)
    smallest: dict[str, Any] = {"kv_memory": f"{largest * block}B"}
    every = [*SETTINGS, smallest, {**smallest, "sharing": "none"}]
    for settings in every if whole else in_turn(every, THREE.index(family), 3):
        assert answers(model, prompts, **settings) == expected, settings


def tower(name: str) -> bool:
    return any(part in name for part in ("vision", "visual", "projector", "connector"))


@pytest.mark.parametrize("family", COMPOSITES)
def test_towers_are_not_loaded(
    tmp_path: Path, family: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save_composite(tmp_path, family)
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert any(map(tower, file.keys()))
    with caplog.at_level(logging.INFO):
        model = load_model(ModelDescription.load(str(folder), OPTIONS))
    assert not [name for name, _ in model.module.named_modules() if tower(name)]
    # Of some classes transformers itself ignores the tower, and names nothing.
    ignored = any("visual" in key for key in model.module._keys_to_ignore_on_load_unexpected or [])
    assert ignored or "do not belong to its language model" in caplog.text


def resident(field: str) -> int:
    """Bytes of memory of this process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def test_weights_of_towers_are_not_read(tmp_path: Path) -> None:
    """They are in a file of 4 GiB with nothing on the disk behind it, and memory stays small."""
    folder, size = save_composite(tmp_path, "gemma3"), 4 << 30
    name = "model.vision_tower.vision_model.embeddings.patch_embedding.weight"
    header = {name: {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    with open(folder / "towers.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + size)
    (folder / "model.safetensors").rename(folder / "rest.safetensors")
    with safe_open(folder / "rest.safetensors", framework="pt") as file:
        names = {key: "rest.safetensors" for key in file.keys() if not tower(key)}  # noqa: SIM118
    index = {"metadata": {}, "weight_map": names | {name: "towers.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    prompts = forest_of_prompts(2, trees=1)[:3]
    expected = answers(save_composite(tmp_path / "whole", "gemma3"), prompts)
    Path("/proc/self/clear_refs").write_text("5")  # peak memory is counted from now on
    before = resident("VmRSS")
    assert answers(folder, prompts) == expected
    assert resident("VmHWM") - before < size // 4


def test_positions_that_a_composite_counts_otherwise_are_refused(tmp_path: Path) -> None:
    """PaliGemma's prompts do, text or not; it counts positions from 1, too, which shows first."""
    folder = save_composite(tmp_path, "paligemma")
    with pytest.raises(UnsupportedModelError, match="'paligemma' use positions"):
        LLM(str(folder), dtype="float32", device="cpu")


def test_numbers_are_in_the_format_the_composite_names(tmp_path: Path) -> None:
    folder = save_composite(tmp_path, "mistral3")
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["dtype"] = "bfloat16"
    config["text_config"].pop("dtype", None)
    path.write_text(json.dumps(config))
    description = ModelDescription.load(str(folder), EngineOptions(device="cpu"))
    assert str(description.dtype) == "torch.bfloat16"


def test_a_tower_whose_package_is_missing_is_no_obstacle(tmp_path: Path) -> None:
    """Gemma 3n's needs timm. The oracle is transformers' text model, with the same weights."""
    text = save_model(tmp_path / "text", "gemma3n")
    folder = tmp_path / "whole"
    config = transformers.Gemma3nConfig(text_config=dict(KINDS["gemma3n"][1]))
    config.architectures = ["Gemma3nForConditionalGeneration"]
    config.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    with safe_open(text / "model.safetensors", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    renamed = {
        name.replace("model.", "model.language_model.", 1): tensor
        for name, tensor in tensors.items()
    }
    # Tables of the tokens of images and sound, which no text has, but every forward reads.
    made = text_part_class(config)
    assert made is not None
    shapes = made(config).state_dict()
    renamed |= {
        name: torch.zeros_like(shapes[name]) for name in shapes if name.startswith("model.embed_")
    }
    renamed["model.vision_tower.timm_model.weight"] = torch.zeros(3)
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    prompts = forest_of_prompts(3, trees=1)
    expected = [greedy(text, prompt, NEW_TOKENS) for prompt in prompts]
    assert answers(folder, prompts) == expected


TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"


def request(custom_id: str, content: object) -> dict[str, Any]:
    body = {
        "model": "model",
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 8,
        "temperature": 0,
    }
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


def test_a_batch_file_with_an_image_in_a_line(tmp_path: Path) -> None:
    """The line is an error, the others are answered, by the template beside the checkpoint."""
    folder = save_composite(tmp_path / "model", "gemma3")
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    image = [{"type": "text", "text": "See:"}, {"type": "image_url", "image_url": {"url": "x"}}]
    lines = [request("one", "hello"), request("two", image), request("three", "goodbye")]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = ["--model", str(folder), "--dtype", "float32", "--device", "cpu"]
    options += ["--kv-memory", "4MiB", "--errors", str(tmp_path / "errors.jsonl")]
    arguments = ["run", str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out.jsonl"), *options]
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code == 3, ran.output
    error = json.loads((tmp_path / "errors.jsonl").read_text())
    assert error["custom_id"] == "two"
    assert "body.messages[0].content[1].type" in json.dumps(error)
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [record["custom_id"] for record in records] == ["one", "three"]
    tokenizer = byte_tokenizer()
    for record, text in zip(records, ("hello", "goodbye"), strict=True):
        prompt = tokenizer(f"<user>{text}", add_special_tokens=False)["input_ids"]
        expected = tokenizer.decode(greedy_composite(folder, prompt, 8), skip_special_tokens=True)
        assert record["response"]["body"]["choices"][0]["message"]["content"] == expected


@pytest.mark.parametrize("stated", ["[]", '{"chat_template": 3}', "{"])
def test_a_template_file_that_holds_none_is_refused(tmp_path: Path, stated: str) -> None:
    folder = save_composite(tmp_path, "gemma3")
    (folder / "chat_template.json").write_text(stated)
    with pytest.raises(ModelLoadError, match=r"chat_template\.json .*Copy the file again"):
        ModelDescription.load(str(folder), OPTIONS)
