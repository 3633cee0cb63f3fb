from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers.client import ROOT
from benchmarks.report import newest
from benchmarks.runner import cpu_name, records_name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


def bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", "--model", "smoke", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.fixture(scope="module")
def records(folder: Path) -> list[dict[str, Any]]:
    """Shoal alone, two workloads, small."""
    done = bench(
        *("--workload", "shared-2k,n-best", "--scale", "0.1", "--peers", "none"),
        *("--rounds", "2", "--folder", folder, "--results", folder / "results"),
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    file = folder / "results" / records_name(cpu_name())
    assert file.read_text().splitlines() == lines
    assert "shared-2k round 2/2 shoal" in done.stderr
    return [json.loads(line) for line in lines]


def test_one_record_per_workload(records: list[dict[str, Any]]) -> None:
    assert [record["workload"] for record in records] == ["shared-2k", "n-best"]
    for record in records:
        assert record["model"] == "smoke"
        assert record["peers"] == record["ratios"] == record["agreement"] == {}
        assert len(record["rounds"]["shoal"]) == 2
        assert record["ours_seconds"] > 0
        assert record["matmul_gflops"] >= record["layer_gflops"] > 0
        # Not "< 1": the rates of a machine whose host is busy may be lower than its runs.
        floor = sum(record["flops"].values()) / (record["matmul_gflops"] * 1e9)
        assert record["roofline_seconds"] == pytest.approx(floor, rel=2e-3)
        fraction = record["roofline_seconds"] / record["ours_seconds"]
        assert record["roofline_fraction"] == pytest.approx(fraction, rel=2e-3)
        assert record["copy_gb_per_second"] > 0
        assert record["peak_rss_bytes"]["shoal"] > 2**20
        assert record["versions"]["shoal"]["shoal"]
        assert record["preload"] == {"shoal": []}
    assert [record["tokens"] for record in records] == [1 * 3 * 6, 2 * 2 * 13]


def test_scaled_records_stay_out_of_the_table(records: list[dict[str, Any]]) -> None:
    assert newest(records) == []


def test_table_and_plot(records: list[dict[str, Any]], folder: Path) -> None:
    from benchmarks.report import write_report

    old = records[0] | {"scale": 1, "ours_seconds": 99.0}
    peers = {"peers": {"vllm": 6.0}, "ratios": {"vllm": 1.5}, "agreement": {}}
    peers |= {"peer_agreement": {"vllm vllm-sorted": {"equal": 0.5, "common_prefix": 0.75}}}
    full = [record | peers | {"scale": 1, "ours_seconds": 4.0} for record in records]
    path = folder / "full.jsonl"
    alone = records[0] | {"scale": 1, "ours_seconds": 88.0}
    path.write_text("".join(json.dumps(r) + "\n" for r in [old, full[1], full[0], alone]))
    table, png, svg = write_report(path)
    rows = [line.split(" | ") for line in table.read_text().splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == ["| workload", "| ---", "| shared-2k", "| n-best"]
    assert rows[2][1:3] == ["4.0", "6.0 (1.50)"]
    text = table.read_text()
    assert "the records are in `full.jsonl`" in text
    assert "vllm 1.50" in text
    assert "vllm and vllm-sorted 75%" in text
    assert png.read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in svg.read_bytes()


@pytest.mark.parametrize(
    ("cpu", "file"),
    [
        ("Some(R) Processor, 2 cores, avx2 avx512f avx512_bf16", "cpu-avx512-bf16.jsonl"),
        ("Some(R) Processor, 2 cores, avx2", "cpu-avx2.jsonl"),
        ("aarch64", "cpu-aarch64.jsonl"),
    ],
)
def test_a_file_for_each_kind_of_processor(cpu: str, file: str) -> None:
    assert records_name(cpu) == file


def test_a_missing_peer_is_named_before_anything_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SHOAL_BENCH_VLLM", raising=False)
    done = bench("--workload", "none", "--folder", folder / "empty")
    assert done.returncode == 1
    assert "make bench-peers" in done.stderr
    assert done.stdout == ""


def test_an_evaluation(folder: Path) -> None:
    """Scored through the harness; it has a table of its own, and no bars in the plot."""
    from benchmarks.report import write_report

    done = bench(
        *("--workload", "mmlu-shape", "--scale", "0.05", "--peers", "none"),
        *("--rounds", "1", "--folder", folder),
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["workload"] == "mmlu-shape"
    assert record["tokens"] == record["work"]["prompt_tokens"] == 4 * (1 + 3 + 13) * 35
    assert record["work"]["fed_tokens"] == 0
    agreement = {"vllm-harness": {"same_choice": 0.75, "difference": 0.01}}
    peers = {"peers": {"vllm-harness": 9.0}, "ratios": {"vllm-harness": 4.5}}
    path = folder / "evaluations.jsonl"
    path.write_text(json.dumps(record | peers | {"scale": 1, "agreement": agreement}) + "\n")
    (table,) = write_report(path)
    assert "## smoke: evaluations" in table.read_text()
    assert "9.0 (4.50)" in table.read_text()
    assert "| 75% |" in table.read_text()


def test_what_a_peer_is_not_measured_on_is_refused(folder: Path) -> None:
    arguments = ("--peers", "transformers", "--scale", "0.05", "--folder", folder)
    done = bench("--workload", "mmlu-shape", *arguments)
    assert done.returncode == 1
    assert "mmlu-shape scores, which transformers is not measured on" in done.stderr


def test_wrong_names_are_refused() -> None:
    assert "'many' is none of" in bench("--workload", "many").stderr
    assert "'shoal' is none of" in bench("--peers", "shoal").stderr
