"""Memory stays bounded by token ids: 200,000 requests of 500 tokens start under 2 GiB."""

import os
import re
import signal
import time
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from shoal.model.description import bundled_model_path
from tests.e2e.conftest import Shoal

REQUESTS, TOKENS = 200_000, 500
LIMIT_BYTES = 2 * 2**30


def peak_bytes(pid: int) -> int:
    """The most resident memory a process has had, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_200000_requests_of_500_tokens_plan_and_start_under_2_gib(shoal: Shoal) -> None:
    tokenizer = AutoTokenizer.from_pretrained(bundled_model_path())
    text = "Sort this ticket. " * 200
    ids = tokenizer.encode(text, add_special_tokens=False)[: TOKENS - 8]
    shared = tokenizer.decode(ids)
    with (shoal.folder / "in.jsonl").open("w") as file:
        for i in range(REQUESTS):
            file.write(
                f'{{"custom_id": "r{i}", "method": "POST", "url": "/v1/completions", "body": '
                f'{{"model": "shoal-tiny", "prompt": "{shared}{i:08}", "max_tokens": 4}}}}\n'
            )
    journal = shoal.folder / "out.jsonl.journal"
    process = shoal.start("run", "in.jsonl", "-o", "out.jsonl")
    while not (journal.exists() and b" done " in journal.read_bytes()[:4096]):
        assert process.poll() is None, shoal.text("stderr")
        time.sleep(0.1)
    peak = peak_bytes(process.pid)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait() == 130
    announced = re.search(r"([\d,]+) prompts to run; ([\d,]+) prompt tokens", shoal.text("stderr"))
    assert announced is not None
    assert announced[1] == "200,000"
    assert int(announced[2].replace(",", "")) >= REQUESTS * TOKENS * 0.98
    print(f"peak {peak / 2**20:,.0f} MiB")
    assert peak < LIMIT_BYTES
