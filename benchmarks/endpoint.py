"""A job in front of vLLM's server: the client's order shuffled, sorted, and planned by Shoal.

python -m benchmarks.endpoint

The shape is tight-2k's: prefixes that exceed the server's KV memory, several users each. All three
send the same requests, with the same most at once; the first two as a plain client does, in the
order of the file. The server's prefix cache is emptied before each. Seconds are of the whole
command for `planned`: reading, planning and the journal included, not starting Python.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.peers.client import ROOT, python_of
from benchmarks.peers.preload import preload_of
from benchmarks.runner import cpu_name, say
from benchmarks.workloads import SEED, Group, Spec, Workload, make_generation
from shoal.endpoints import EndpointOptions
from shoal.jobs import JobSpec, run_job
from shoal.model.description import bundled_model_path

SPEC = Spec("prefixes exceed the KV memory", (Group(24, 8, 1024, 32, 16),))
POOL_TOKENS = 8192
"""KV of the server: a third of the prefixes."""
BLOCK_TOKENS = 32
"""The smallest that vLLM has on a CPU."""
AT_ONCE = 32
"""Most requests at once, of every client."""
VOCABULARY = 1024
"""Ids below it; the bundled model has 1,280."""
NAME = "bench"
START_SECONDS = 300.0

Metrics = dict[str, float]


@contextmanager
def vllm_server(model: str, folder: Path, pool_tokens: int = POOL_TOKENS) -> Iterator[str]:
    """vLLM's OpenAI server on the CPU, as its documentation starts it; its URL."""
    python = python_of("vllm", folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += ["--served-model-name", NAME, "--port", str(port), "--dtype", "bfloat16"]
    command += ["--enable-prefix-caching", "--block-size", str(BLOCK_TOKENS)]
    command += ["--num-gpu-blocks-override", str(pool_tokens // BLOCK_TOKENS)]
    command += ["--max-num-seqs", "256", "--max-num-batched-tokens", "2048", "--enforce-eager"]
    environment = os.environ | {
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "LD_PRELOAD": ":".join(preload_of(python.parents[1])),
    }
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            _wait(process, url, log)
            yield url
        finally:
            process.terminate()
            process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, log: Any) -> None:
    ends = time.monotonic() + START_SECONDS
    while True:
        try:
            if httpx2.get(f"{url}/health").status_code == 200:
                return
        except httpx2.TransportError:
            pass
        if process.poll() is not None or time.monotonic() > ends:
            log.seek(0)
            raise RuntimeError(f"vLLM's server did not start:\n{log.read()[-3000:]}")
        time.sleep(0.5)


def metrics(url: str) -> Metrics:
    """The counters of the server's prefix cache, in tokens."""
    text = httpx2.get(f"{url}/metrics").text
    found = re.findall(r"^vllm:prefix_cache_(queries|hits)_total\{.*\} (\S+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in found}


def lines_of(workload: Workload) -> list[dict[str, Any]]:
    """The workload as lines of a batch file."""
    return [
        {
            "custom_id": str(number),
            "method": "POST",
            "url": "/v1/completions",
            "body": {
                "model": NAME,
                "prompt": prompt,
                "max_tokens": output,
                "temperature": 0,
                "ignore_eos": True,
            },
        }
        for number, (prompt, output) in enumerate(
            zip(workload.prompts, workload.outputs, strict=True)
        )
    ]


def plain_client(url: str, lines: list[dict[str, Any]]) -> None:
    """Send all lines in this order, so many at once."""

    async def send() -> None:
        limits = httpx2.Limits(max_connections=AT_ONCE)
        async with httpx2.AsyncClient(limits=limits, timeout=None) as client:
            left = iter(lines)

            async def worker() -> None:
                for line in left:
                    answer = await client.post(f"{url}{line['url']}", json=line["body"])
                    answer.raise_for_status()

            await asyncio.gather(*(worker() for _ in range(AT_ONCE)))

    asyncio.run(send())


def planned(url: str, lines: list[dict[str, Any]], model: str) -> None:
    """The same as a job of Shoal's."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in.jsonl"
        source.write_text("".join(json.dumps(line) + "\n" for line in lines))
        result = run_job(
            JobSpec(
                input=source,
                output=Path(folder) / "out.jsonl",
                model=str(model),
                endpoints=EndpointOptions(endpoint=[url], endpoint_concurrency=AT_ONCE),
                quiet=True,
            )
        )
        assert result.summary.requests.succeeded == len(lines)


def measure(url: str, run: Callable[[], None]) -> dict[str, float]:
    """Seconds of a run that begins with an empty prefix cache, and its share of hits."""
    httpx2.post(f"{url}/reset_prefix_cache").raise_for_status()
    before, began = metrics(url), time.perf_counter()
    run()
    seconds, after = time.perf_counter() - began, metrics(url)
    asked = after["queries"] - before["queries"]
    return {"seconds": seconds, "hit_rate": (after["hits"] - before["hits"]) / max(asked, 1.0)}


def main() -> int:
    """Measure rounds in turn, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.endpoint")
    parser.add_argument(
        "--model", default=str(bundled_model_path()), help="the bundled one if not given"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=ROOT / ".bench")
    chosen = parser.parse_args()
    workload = make_generation("endpoint", SPEC, VOCABULARY, 1.0, SEED)
    shuffled, ordered = lines_of(workload), lines_of(workload.sorted())
    found: dict[str, list[dict[str, float]]] = {"shuffled": [], "sorted": [], "planned": []}
    with vllm_server(chosen.model, chosen.folder) as url:
        runs: dict[str, Callable[[], None]] = {
            "shuffled": lambda: plain_client(url, shuffled),
            "sorted": lambda: plain_client(url, ordered),
            "planned": lambda: planned(url, shuffled, chosen.model),
        }
        for number in range(chosen.rounds + 1):
            for name, run in runs.items():
                figures = measure(url, run)
                when = f"round {number}" if number else "to warm up"
                say(f"{name}, {when}: {figures['seconds']:.2f} s, {figures['hit_rate']:.1%} hits")
                if number:
                    found[name].append(figures)
    middle = {
        name: {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
        for name, rounds in found.items()
    }
    print(json.dumps({"cpu": cpu_name(), "requests": len(shuffled)} | middle))
    return 0


if __name__ == "__main__":
    sys.exit(main())
