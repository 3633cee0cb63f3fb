"""Shoal on a GPU, in one command and ten minutes: `python3 -m benchmarks.gpu` (`make bench-gpu`).

Needs torch, Triton, transformers and numpy beside this repository: no installation, no network, no
files of a model. Parts, in the order they run, each taking what time it needs of what is left:

- ceilings: a large copy, matrix products;
- equality: greedy float32 tokens against transformers, under every sharing;
- kernel: segment attention against its ceiling, torch's attention, and two launches;
- end-to-end: workloads on llama-8b's shape under Shoal's and the baselines' policies.

Every figure is a JSON line, printed and appended to the results as soon as it is known.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_BEGAN = time.perf_counter()

PARTS = ("ceilings", "equality", "kernel", "end-to-end")
MINUTES = 9.0
NO_DEVICE = "torch sees no CUDA device here; --smoke runs everything tiny on the CPU"
RESULTS = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; 0, 1 if there is no GPU to run it on, 2 for wrong usage."""
    chosen = _parser().parse_args(arguments)
    if chosen.smoke:
        # Read when Triton is imported: its kernels then run on the CPU, slowly.
        os.environ.setdefault("TRITON_INTERPRET", "1")
    # Imported here: the interpreter's switch, and what is missing on a bare machine, come first.
    import torch

    if not chosen.smoke and not torch.cuda.is_available():
        print(f"error: {NO_DEVICE}", file=sys.stderr)
        return 1
    from benchmarks.bare import import_shoal

    stand_in = import_shoal()
    from benchmarks.gpu_parts.session import Session

    results = chosen.results or (None if chosen.smoke else RESULTS)
    left = chosen.minutes * 60 - (time.perf_counter() - _BEGAN)
    session = Session(left, results, chosen.smoke, not stand_in, fuse=not chosen.unfused)
    session.run(chosen.parts, chosen.workloads)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python3 -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--parts", type=_parts, default=",".join(PARTS), help="some of %(default)s")
    add(
        "--workloads",
        type=_workloads,
        default=[],
        help="of end-to-end, default all: more time each",
    )
    add("--minutes", type=float, default=MINUTES, help="most time to take (default %(default)s)")
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


def _names(text: str, known: Sequence[str]) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
