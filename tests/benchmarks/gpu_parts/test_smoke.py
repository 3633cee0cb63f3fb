"""The whole GPU benchmark, tiny, on a CPU."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.gpu_parts.flashinfer_peer import WAYS
from benchmarks.peers.client import ROOT

TRITON = importlib.util.find_spec("triton") is not None


def bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", *map(str, arguments)]
    unseen = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=unseen, check=False
    )


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("results")
    done = bench("--smoke", "--results", folder)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert (folder / "gpu.jsonl").read_text().splitlines() == lines
    return [json.loads(line) for line in lines]


def of(records: list[dict[str, Any]], part: str) -> list[dict[str, Any]]:
    return [record for record in records if record["part"] == part]


def test_nothing_failed_or_was_left_out(records: list[dict[str, Any]]) -> None:
    assert [r for r in records if "error" in r or "skipped" in r] == []
    assert all(record["smoke"] for record in records)
    assert records[0]["part"] == "machine"


def test_ceilings(records: list[dict[str, Any]]) -> None:
    (found,) = of(records, "ceilings")
    assert found["copy_bytes_per_second"] > 1e6
    assert found["flops_per_second"] >= max(found["product_flops_per_second"].values())


def test_equality_under_every_sharing(records: list[dict[str, Any]]) -> None:
    found = of(records, "equality")
    assert {r["way"] for r in found} == {"forest", "single", "paper", "none", "lru"}
    assert len(found) == 5
    assert all(record["equal"] == record["of"] > 10 for record in found)


def test_kernel(records: list[dict[str, Any]]) -> None:
    found = of(records, "kernel")
    assert len(found) == 2
    for record in found:
        assert record["kernel"] == ("triton" if TRITON else "reference")
        assert record["seconds"]["ours"] > 0
        assert record["relative_error"]["torch"] < 1e-5
        if record["prefix"] and TRITON:
            assert record["relative_error"]["two_launches"] < 1e-5
            assert record["ratios"]["two_launches"] > 0
        assert record["ceiling_fraction"] > 0
        for name in WAYS:
            assert record["flashinfer_way"][name] == "not measured: FlashInfer needs a CUDA device"
            assert name not in record["seconds"]


def test_end_to_end(records: list[dict[str, Any]]) -> None:
    found = of(records, "end-to-end")
    tight = [record for record in found if record["workload"] == "tight-2k"]
    assert [r["policy"] for r in tight] == ["shoal", "sorted-lru", "paper", "fcfs-lru"]
    assert {r["kv"] for r in tight} == {"tight"}
    assert [r["policy"] for r in found if r["workload"] == "n-best"] == ["shoal", "sorted-lru"]
    assert [r["policy"] for r in found if r["workload"] == "monkeys"] == ["shoal"]
    for record in found:
        assert record["seconds"] > 0
        assert record["iterations"] > 0
        assert record["prefill_tokens"] > 0
        # Not "< 1": the ceilings of a machine whose host is busy may be lower than its runs.
        floor = max(record["roofline_seconds"].values())
        assert record["roofline_fraction"] == pytest.approx(floor / record["seconds"], rel=1e-3)
        assert floor > 0
        if record["policy"].endswith("lru"):
            assert 0 < record["ratios"]["execute_seconds"] < record["ratios"]["seconds"]
    assert len({record["tokens"] for record in tight}) == 1
    assert all(r["agreement"]["equal"] > 0.9 for r in tight if r["policy"] != "shoal")


def test_profiles(records: list[dict[str, Any]]) -> None:
    found = of(records, "profile")
    assert [record["workload"] for record in found] == ["tight-2k", "monkeys"]
    for record in found:
        assert 0 < record["busy_fraction"] <= 1
        assert record["iterations"] > 0
        assert record["host_ms_per_iteration"]["launch"] > 0


def test_the_peer(records: list[dict[str, Any]]) -> None:
    ours, theirs = of(records, "peer")
    assert (ours["policy"], theirs["policy"]) == ("shoal", "transformers")
    assert theirs["equal_answers"] == 3
    assert theirs["ratio"] > 0


def test_without_a_gpu_it_says_so() -> None:
    done = bench("--parts", "ceilings", "--minutes", "0.1")
    assert done.returncode == 1
    assert "--smoke" in done.stderr


def test_wrong_parts_are_refused() -> None:
    done = bench("--parts", "ceilings,floors")
    assert done.returncode == 2
    assert "'floors' is none of" in done.stderr
