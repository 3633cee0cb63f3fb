"""vLLM's offline script with the import changed: it runs, and its texts are vLLM's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from shoal.model.description import bundled_model_path
from tests.helpers.models import greedy

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("vllm_script.py")
VLLM = ROOT / ".bench/peers/vllm/bin/python"
"""Where `make bench-peers` installs it."""

Outputs = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def chats() -> list[Any]:
    lines = (ROOT / "examples/tickets.jsonl").read_text().splitlines()
    return [json.loads(line)["body"]["messages"] for line in lines[:4]]


def run(python: Path | str, script: Path, chats: list[Any], folder: Path) -> Outputs:
    (folder / "chats.json").write_text(json.dumps(chats))
    quiet = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}
    shown = subprocess.run(
        [python, script, bundled_model_path(), folder / "chats.json"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | quiet | {"VLLM_CPU_KVCACHE_SPACE": "1"},
    )
    assert shown.returncode == 0, shown.stderr
    found: Outputs = json.loads(shown.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def ours(chats: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    folder = tmp_path_factory.mktemp("shoal")
    source = SCRIPT.read_text()
    assert source.count("from vllm import") == 1
    (folder / "script.py").write_text(source.replace("from vllm import", "from shoal import"))
    return run(sys.executable, folder / "script.py", chats, folder)


def test_it_runs_and_its_tokens_are_those_of_transformers(ours: Outputs, chats: list[Any]) -> None:
    model = bundled_model_path()
    tokenizer = AutoTokenizer.from_pretrained(model)
    for output, messages in zip(ours["chats"], chats, strict=True):
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert (output["prompt"], output["prompt_token_ids"]) == (text, ids)
        assert output["outputs"][0]["token_ids"] == greedy(model, ids, 24)
    assert ours["chat"] == ours["chats"][:1]
    assert ours["one"][0]["outputs"] == ours["tokens"][0]["outputs"]
    assert len(ours["defaults"][0]["outputs"][0]["token_ids"]) <= 16
    for output in ours["stopped"]:
        (each,) = output["outputs"]
        assert (each["finish_reason"], each["stop_reason"]) == ("stop", ":")
        assert ":" not in each["text"]


@pytest.mark.skipif(not VLLM.exists(), reason="vLLM is not installed: make bench-peers")
def test_the_answers_are_vllms(ours: Outputs, chats: list[Any], tmp_path: Path) -> None:
    theirs = run(VLLM, SCRIPT, chats, tmp_path)
    assert theirs.keys() == ours.keys()
    for name, outputs in theirs.items():
        for output, other in zip(outputs, ours[name], strict=True):
            assert output["prompt_token_ids"] == other["prompt_token_ids"], name
            for each, mine in zip(output["outputs"], other["outputs"], strict=True):
                del each["ranks"], mine["ranks"]  # of tails, where rounding may turn two tokens
                assert each == mine, name
