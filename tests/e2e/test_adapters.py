"""`--lora`: lines that name adapters, in one job, against peft; planned, resumed, refused."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Shoal
from tests.e2e.test_devices import begun, done
from tests.helpers.e2e_jobs import completion
from tests.helpers.lora import peft_greedy, save_adapter
from tests.helpers.models import byte_tokenizer, forest_of_prompts, save_model

PROMPTS = forest_of_prompts(3)[:6]
NAMES = ["sql", "legal", None]
OPTIONS = ("--dtype", "float32", "--device", "cpu", "--kv-memory", "4MiB", "--token-budget", "65")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and a folder of two adapters."""
    folder = tmp_path_factory.mktemp("lora")
    model = save_model(folder / "base", "llama")
    save_adapter(folder / "adapters" / "sql", model, 1, r=8, lora_alpha=16)
    save_adapter(folder / "adapters" / "legal", model, 2, r=16, lora_alpha=32)
    return folder


def lines() -> list[dict[str, Any]]:
    asked = [
        completion(f"{name}-{number}", prompt, temperature=0, max_tokens=8, model=name)
        for number, prompt in enumerate(PROMPTS)
        for name in NAMES
    ]
    for line in asked:
        if line["body"]["model"] is None:
            del line["body"]["model"]
    return asked


def command(folder: Path, *more: str) -> tuple[str, ...]:
    adapters = str(folder / "adapters")
    return ("in.jsonl", "--model", str(folder / "base"), "--lora", adapters, *OPTIONS, *more)


@pytest.mark.long
def test_lines_name_their_adapter(shoal: Shoal, folder: Path) -> None:
    wrong = completion("wrong", PROMPTS[0], max_tokens=8, model="sqll")
    shoal.write("in.jsonl", [*lines(), wrong])
    assert shoal("run", *command(folder, "-o", "out.jsonl", "--quiet")) == 3
    expected = {
        f"{name}-{number}": answer
        for name in NAMES
        for number, answer in enumerate(
            peft_greedy(
                folder / "base",
                None if name is None else folder / "adapters" / name,
                PROMPTS,
                8,
            )
        )
    }
    found = {record["custom_id"]: record["response"]["body"] for record in shoal.read("out.jsonl")}
    assert found.keys() == expected.keys()
    for custom_id, body in found.items():
        name = custom_id.split("-")[0]
        assert body["model"] == ("base" if name == "None" else name)
        assert body["usage"]["completion_tokens"] == len(expected[custom_id])
    texts = {key: body["choices"][0]["text"] for key, body in found.items()}
    tokenizer = byte_tokenizer()
    for key, tokens in expected.items():
        number = int(key.split("-")[1])
        whole = tokenizer.decode(PROMPTS[number] + tokens, skip_special_tokens=True)
        assert whole.endswith(texts[key])
        assert texts[key] or not tokenizer.decode(tokens, skip_special_tokens=True)
    (error,) = shoal.read("out.errors.jsonl")
    assert error["custom_id"] == "wrong"
    assert "adapters are 'legal', 'sql'" in json.dumps(error)

    assert shoal("run", *command(folder, "-o", "two.jsonl", "--quiet", "--devices", "2")) == 3
    other = {r["custom_id"]: r["response"]["body"] for r in shoal.read("two.jsonl")}
    assert {key: body["choices"][0]["text"] for key, body in other.items()} == texts


@pytest.mark.long
def test_the_plan_counts_them(shoal: Shoal, folder: Path) -> None:
    shoal.write("in.jsonl", lines())
    assert shoal("plan", *command(folder, "--json", "--lora-memory", "1MiB")) == 0
    plan = json.loads(shoal.text("stdout"))
    adapters = plan["adapters"]
    per_rank = 4 * 2 * (32 + 32 + 2 * (32 + 16) + 2 * 32 + 3 * (32 + 48))
    assert adapters["given"] == adapters["used"] == 2
    assert adapters["requests"] == 2 * len(PROMPTS)
    assert adapters["bytes"] == (8 + 16) * per_rank
    assert adapters["largest_bytes"] == 16 * per_rank
    assert adapters["memory_bytes"] == 2**20
    assert adapters["tokens_apart"] > 0
    assert plan["invalid"] == 0
    assert shoal("plan", *command(folder)) == 0
    assert "2 of 2 in use, by 12 requests; 6 of the model itself" in shoal.text("stdout")


@pytest.mark.long
def test_a_changed_adapter_is_refused_on_resume(shoal: Shoal, folder: Path) -> None:
    shoal.write("in.jsonl", lines())
    changing = folder / "changing"
    save_adapter(changing, folder / "base", 5, r=8)
    given = ("in.jsonl", "--model", str(folder / "base"), "--quiet", *OPTIONS, "-o", "out.jsonl")
    given += ("--lora", f"sql={changing}", "--lora", f"legal={folder / 'adapters' / 'legal'}")
    assert shoal("run", *given) == 0
    save_adapter(changing, folder / "base", 6, r=8)
    assert shoal("run", *given) == 1
    assert "the model's adapter 'sql' changed" in shoal.text("stderr")
    assert shoal("run", *given, "--restart") == 0


@pytest.mark.long
def test_killed_and_resumed(shoal: Shoal, folder: Path) -> None:
    """What was left of each adapter's requests runs with it, and with no other."""
    few = lines()
    many = [
        line | {"custom_id": f"{line['custom_id']}-{number}", "body": body}
        for number in range(60)
        for line in few
        for body in [line["body"] | {"max_tokens": 16, "temperature": 1, "seed": number}]
    ]
    shoal.write("in.jsonl", many)
    assert shoal("run", *command(folder, "-o", "calm.jsonl", "--quiet")) == 0
    expected = {each["custom_id"]: each["response"]["body"] for each in shoal.read("calm.jsonl")}
    run = ("run", *command(folder, "-o", "out.jsonl"))
    killed = shoal.start(*run)
    begun(shoal, killed)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.process.join()
    saved = done(shoal)
    assert 0 < saved < len(many)
    assert not (shoal.folder / "out.jsonl").exists()
    assert shoal(*run) == 0
    assert "resuming:" in shoal.text("stderr")
    found = {each["custom_id"]: each["response"]["body"] for each in shoal.read("out.jsonl")}
    assert found.keys() == expected.keys()
    for custom_id, body in found.items():
        assert body["model"] == expected[custom_id]["model"]
        assert body["choices"] == expected[custom_id]["choices"]
