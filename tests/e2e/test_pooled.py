"""Embeddings through the whole command: killed and resumed, they are transformers' all the same."""

from __future__ import annotations

import gzip
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from shoal.model.description import bundled_model_path
from tests.e2e.conftest import Command, Shoal
from tests.helpers.e2e_jobs import POLICIES, line
from tests.helpers.kills import run_with_kills

OPTIONS = ("--dtype", "float32", "--device", "cpu", "--quiet", "--token-budget", "64")
KILLS = 4


def texts(index: int) -> list[str]:
    return [f"{POLICIES[index % 2]} Ticket {index}.", f"Order {index} is late."]


def embeddings(count: int) -> list[bytes | dict[str, Any]]:
    found: list[bytes | dict[str, Any]] = [b"{not json"]
    for index in range(count):
        body = {"model": "shoal-tiny", "input": texts(index)}
        found.append(line(f"t-{index}", "/v1/embeddings", body))
    body = {"model": "shoal-tiny", "prompt": "x"}
    return [*found, line("other", "/v1/completions", body)]


@torch.inference_mode()
def expected(text: str, pooling: str) -> np.ndarray:
    folder = bundled_model_path()
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    rows = model(torch.tensor([ids])).last_hidden_state[0]
    row = rows[-1] if pooling == "last" else rows.mean(0)
    return torch.nn.functional.normalize(row, dim=0).numpy()


def check(folder: Path, shoal: Shoal, count: int, pooling: str) -> None:
    records = shoal.read("out.jsonl")
    assert [record["custom_id"] for record in records] == [f"t-{i}" for i in range(count)]
    for index in (0, 1, count - 1):
        data = records[index]["response"]["body"]["data"]
        for each, text in zip(data, texts(index), strict=True):
            assert np.abs(np.array(each["embedding"]) - expected(text, pooling)).max() < 1e-5
    errors = [r["response"]["body"]["error"] for r in shoal.read("out.errors.jsonl")]
    assert [error["code"] for error in errors] == ["invalid_json_line", "invalid_url"]
    assert not list(folder.glob("*.shoal-tmp"))


@pytest.mark.long
def test_kills(shoal: Shoal) -> None:
    shoal.write("in.jsonl", embeddings(300))
    journal = shoal.folder / "out.jsonl.journal"
    sizes: list[int] = []

    def size() -> int:
        return journal.stat().st_size if journal.exists() else 0

    def start() -> Command:
        sizes.append(size())
        return shoal.start("run", "in.jsonl", "-o", "out.jsonl", *OPTIONS)

    report = run_with_kills(
        start,
        kills=KILLS,
        longest_seconds=0.1,
        rng=random.Random(1),
        ready=lambda: size() > sizes[-1] + 2000,
    )
    assert report.exit_code == 3
    assert report.kills > 0
    check(shoal.folder, shoal, 300, "last")
    assert sizes[1] > 0, "the second run went on from the first"


@pytest.mark.long
def test_a_mean_from_a_pipe(shoal: Shoal) -> None:
    """What comes compressed is looked into before the model is loaded."""
    path = shoal.write("in.jsonl", embeddings(4))
    (shoal.folder / "in.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    options = (*OPTIONS, "--pooling-type", "mean")
    assert shoal("run", "in.jsonl.gz", "-o", "out.jsonl", *options) == 3
    check(shoal.folder, shoal, 4, "mean")
    assert shoal("plan", "in.jsonl", "--pooling-type", "mean") == 0
