"""Shoal on a GPU, in one command: `python3 -m benchmarks.gpu` (`make bench-gpu`).

Needs torch, Triton, transformers, numpy and pydantic beside this repository: no installation, no
network, no files of a model. Images for GPU machines often lack pydantic: under "Packages for a
machine without network" docs/gpu-internals.md says how to carry it there. Parts, in the order they
run, each taking what time it needs of what is left:

- tests: the tests that only a GPU can run;
- equality: greedy float32 tokens against transformers, under every sharing;
- ceilings: a large copy, matrix products;
- tune: other sizes of the attention kernel's tiles;
- kernel: segment attention against its ceiling, torch's attention, and two launches;
- end-to-end: workloads on llama-8b's shape under Shoal's and the baselines' policies;
- peer: after end-to-end, a few requests through transformers' continuous batching;
- monkeys: 1,024 samples of each of a few prompts on llama-1b's shape, a published workload.

`--stage` chooses parts that belong together, and their time. Every figure is a JSON line, printed
and appended to the results as soon as it is known; `--resume` leaves out what a file of such lines
has already. A short table comes last.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_BEGAN = time.perf_counter()

PARTS = ("tests", "equality", "ceilings", "tune", "kernel", "end-to-end", "peer", "monkeys")
USUAL = ("equality", "ceilings", "kernel", "end-to-end", "peer", "monkeys")
MINUTES = 9.0


@dataclass(frozen=True)
class Stage:
    """Parts that are run together, and the time they are given unless another is."""

    parts: tuple[str, ...]
    minutes: float
    workloads: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()


STAGES = {
    1: Stage(("tests", "equality"), 2.5),
    2: Stage(
        ("ceilings", "kernel", "end-to-end", "peer"),
        4.0,
        ("shared-2k", "tight-2k", "n-best", "none"),
        ("shoal", "sorted-lru", "fcfs-lru"),
    ),
    3: Stage(("ceilings", "monkeys"), 2.0),
}
NO_DEVICE = "torch sees no CUDA device here; --smoke runs everything tiny on the CPU"
RESULTS = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; 0, 1 if there is no GPU to run it on, 2 for wrong usage."""
    chosen = _parser().parse_args(arguments)
    if chosen.smoke:
        # Read when Triton is imported: its kernels then run on the CPU, slowly.
        os.environ.setdefault("TRITON_INTERPRET", "1")
    # Imported here: the interpreter's switch comes first.
    import torch

    if not chosen.smoke and not torch.cuda.is_available():
        print(f"error: {NO_DEVICE}", file=sys.stderr)
        return 1
    from benchmarks.gpu_parts.records import earlier_records
    from benchmarks.gpu_parts.session import Choice, Session

    stage = STAGES.get(chosen.stage, Stage(USUAL, MINUTES))
    choice = Choice(
        chosen.parts or stage.parts,
        chosen.workloads or stage.workloads,
        chosen.policies or stage.policies,
        fuse=not chosen.unfused,
    )
    results = chosen.results or (None if chosen.smoke else RESULTS)
    known = earlier_records(chosen.resume) if chosen.resume else []
    left = (chosen.minutes or stage.minutes) * 60 - (time.perf_counter() - _BEGAN)
    Session(left, results, chosen.smoke, known).run(choice)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python3 -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--stage", type=int, choices=STAGES, help="parts that belong together, and their time")
    add("--parts", type=_parts, help=f"some of {','.join(PARTS)} (default {','.join(USUAL)})")
    add("--workloads", type=_workloads, help="of end-to-end, default all: more time each")
    add("--policies", type=_policies, help="of end-to-end, default all")
    add("--minutes", type=float, help=f"most time to take (default {MINUTES}, or the stage's)")
    add("--resume", type=Path, metavar="JSONL", help="records of what need not be measured again")
    add("--results", type=Path, help=f"folder for gpu.jsonl (default {RESULTS}; none with --smoke)")
    add("--unfused", action="store_true", help="leave the model's modules as transformers has them")
    add("--smoke", action="store_true", help="everything tiny, on the CPU; the figures say nothing")
    return parser


def _parts(text: str) -> list[str]:
    names = _names(text, PARTS)
    return [part for part in PARTS if part in names]


def _workloads(text: str) -> list[str]:
    from benchmarks.workloads import SPECS

    return _names(text, tuple(SPECS))


def _policies(text: str) -> list[str]:
    from benchmarks.gpu_parts.contenders import POLICIES

    return _names(text, tuple(POLICIES))


def _names(text: str, known: Sequence[str]) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
