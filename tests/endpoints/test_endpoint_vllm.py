"""vLLM's own server: its prefix cache hits as planned."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.endpoint import NAME, SPEC, lines_of, measure, plain_client, planned, vllm_server
from benchmarks.peers.client import ROOT
from benchmarks.workloads import SEED, make_generation
from shoal.endpoints import EndpointOptions
from shoal.jobs import JobSpec, run_job
from shoal.model.description import bundled_model_path
from tests.helpers.job_files import chat, read_records, write_lines

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not (ROOT / ".bench/peers/vllm").exists(), reason="vLLM is not installed: make bench-peers"
    ),
]


def test_vllm(tmp_path: Path) -> None:
    model = str(bundled_model_path())
    workload = make_generation("endpoint", SPEC, 1024, 0.5, SEED)
    shuffled, ordered = lines_of(workload), lines_of(workload.sorted())
    with vllm_server(model, ROOT / ".bench", pool_tokens=3072) as url:
        plain = measure(url, lambda: plain_client(url, shuffled))
        by_hand = measure(url, lambda: plain_client(url, ordered))
        ours = measure(url, lambda: planned(url, shuffled, model))
        lines = [chat("a", "hello", model=NAME)]
        result = run_job(
            JobSpec(
                input=write_lines(tmp_path / "in.jsonl", lines),
                output=tmp_path / "out.jsonl",
                model=model,
                endpoints=EndpointOptions(endpoint=[url]),
                quiet=True,
            )
        )
    assert ours["hit_rate"] > by_hand["hit_rate"] - 0.05
    assert ours["hit_rate"] > plain["hit_rate"] + 0.2
    (record,) = read_records(tmp_path / "out.jsonl")
    body = record["response"]["body"]
    assert (body["object"], body["model"]) == ("chat.completion", NAME)
    assert result.summary.tokens.generated == body["usage"]["completion_tokens"]
