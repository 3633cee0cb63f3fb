"""Other sizes of the attention kernel's tiles, timed over a few shapes: what `tiles.py` is made of.

Compiling takes longer than timing, so all variants are compiled first, in processes of their own;
the compiled kernels come back from Triton's cache. `python3 -m benchmarks.gpu_parts.tune` compiles
alone, beside something else.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, replace

import torch

from benchmarks.gpu_parts.ceilings import Ceilings
from benchmarks.gpu_parts.clock import Deadline, HostStopwatch, Stopwatch
from benchmarks.gpu_parts.kernel import LLAMA_8B_HEADS, KernelBench
from benchmarks.gpu_parts.records import Recorder
from benchmarks.peers.client import ROOT
from benchmarks.runner import say
from benchmarks.shapes import Heads, Shape
from shoal.attention.triton import TritonAttention
from shoal.attention.triton.tiles import Tiles

LLAMA_1B_HEADS = Heads(32, 8, 64)
PROCESSES = 14
"""That compile at a time."""


@dataclass(frozen=True)
class Trial:
    """Variants of the tiles for one model's heads, and the shapes they are timed over."""

    heads: Heads
    shapes: tuple[Shape, ...]
    variants: tuple[Tiles, ...]


def _tiles(*numbers: tuple[int, int, int, int, int, int | None]) -> tuple[Tiles, ...]:
    """Of rows, keys, warps, stages, programs, and registers where they are bounded."""
    return tuple(Tiles(*n[:5], sideways=True, registers=n[5]) for n in numbers)


TRIALS = (
    Trial(
        LLAMA_1B_HEADS,
        (
            Shape("monkeys", 3, 715, 1024, 1, 350),
            Shape("own-only", 3072, 0, 1, 1, 350),
            Shape("prefill-alone", 8, 0, 1, 1024, 1024),
        ),
        _tiles(
            (64, 64, 4, 3, 2, None),
            (64, 64, 4, 5, 2, None),
            (64, 64, 4, 3, 3, 168),
            (64, 32, 4, 3, 3, None),
            (64, 32, 4, 5, 3, None),
            (64, 32, 4, 5, 4, 128),
            (128, 64, 8, 3, 1, None),
        ),
    ),
    Trial(
        LLAMA_8B_HEADS,
        (
            Shape("decode-2048x16", 16, 2048, 16, 1, 128),
            Shape("decode-2048x32", 32, 2048, 32, 1, 96),
            Shape("prefill-2048x32-behind", 1, 2048, 32, 64, 64),
            Shape("prefill-8192-second-half", 1, 0, 1, 4096, 8192),
        ),
        _tiles(
            (64, 64, 4, 3, 2, None),
            (64, 32, 4, 3, 2, None),
            (64, 32, 4, 5, 2, None),
            (64, 32, 4, 5, 3, 168),
            (128, 64, 8, 3, 1, None),
            (128, 64, 8, 5, 1, None),
            (128, 128, 8, 3, 1, None),
        ),
    ),
)
"""Not with two stages: Triton 3.6 then reads where it must not (docs/lab-notes.md)."""


def tune(
    trials: tuple[Trial, ...],
    dtype: torch.dtype,
    device: torch.device,
    watch: Stopwatch,
    ceilings: Ceilings,
    recorder: Recorder,
    deadline: Deadline,
) -> None:
    """A record per variant: microseconds and share of the ceiling by shape."""
    if device.type == "cuda":
        compile_all(trials, deadline)
    for trial in trials:
        for tiles in trial.variants:
            if deadline.left == 0:
                recorder.add("tune", skipped=[str(tiles)], reason="no time left")
                return
            bench = KernelBench(
                TritonAttention(tiles=tiles), trial.heads, dtype, device, watch, ceilings
            )
            recorder.add(
                "tune", dim=trial.heads.dim, tiles=asdict(tiles), **_timed(bench, trial.shapes)
            )


def _timed(bench: KernelBench, shapes: tuple[Shape, ...]) -> dict[str, object]:
    try:
        seconds = {shape.name: bench.seconds(shape) for shape in shapes}
        floors = {shape.name: bench.floor(shape)[0] for shape in shapes}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:300]}
    shares = {name: floors[name] / seconds[name] for name in seconds}
    return {"seconds": seconds, "ceiling_fraction": shares}


def compile_all(trials: tuple[Trial, ...], deadline: Deadline) -> None:
    """Run every variant once in some process, so that its kernel is in the cache on the disk."""
    say("tune: compiling")
    jobs = [
        json.dumps([trial, variant])
        for trial, each in enumerate(trials)
        for variant in range(len(each.variants))
    ]
    under_way: list[subprocess.Popen[bytes]] = []
    for place, job in enumerate(jobs):
        command = [sys.executable, "-m", "benchmarks.gpu_parts.tune", job]
        under_way.append(subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL))
        if place + 1 >= PROCESSES:
            under_way[place + 1 - PROCESSES].wait(deadline.left)
    for process in under_way:
        process.wait(deadline.left)


def _compile_one(trial: Trial, tiles: Tiles) -> None:
    ceilings = Ceilings(1.0, {}, 1.0)
    bench = KernelBench(
        TritonAttention(tiles=tiles),
        trial.heads,
        torch.bfloat16,
        torch.device("cuda"),
        HostStopwatch(),
        ceilings,
    )
    # Of few rows: the compiled kernel is the same.
    first = trial.shapes[0]
    bench.seconds(replace(first, segments=1, users=min(2, first.users)))
    torch.cuda.synchronize()


if __name__ == "__main__":
    if len(sys.argv) == 1:
        compile_all(TRIALS, Deadline(300.0))
    else:
        chosen = json.loads(sys.argv[1])
        _compile_one(TRIALS[chosen[0]], TRIALS[chosen[0]].variants[chosen[1]])
