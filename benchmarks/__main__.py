"""The command line: progress on standard error, one JSON line per workload on standard output."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.agreement import UnequalWorkError
from benchmarks.evaluations import EVALUATIONS
from benchmarks.evaluations import PEERS as EVALUATION_PEERS
from benchmarks.models import MODELS
from benchmarks.peers.client import PEERS, ROOT, PeerError
from benchmarks.runner import Bench, cpu_name, records_name, say
from benchmarks.workloads import SPECS, WINDOW_SPECS

DEFAULT_MODEL = "llama-100m"
DEFAULT_PEERS = "vllm,vllm-sorted"
RESULTS = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; 0, or 1 if an engine is missing, failed or did other work."""
    chosen = _parser().parse_args(arguments)
    results = chosen.results or (RESULTS if chosen.scale == 1 else None)
    try:
        for (model, peers), names in by_engines(chosen).items():
            with Bench(model, peers, chosen.folder, chosen.rounds) as bench:
                for name in names:
                    line = json.dumps(bench.run(name, chosen.scale))
                    print(line, flush=True)
                    if results:
                        append_record(results / records_name(cpu_name()), line)
    except (PeerError, UnequalWorkError) as error:
        say(f"error: {error}")
        return 1
    if results:
        _report(results)
    return 0


def by_engines(chosen: argparse.Namespace) -> dict[tuple[str, tuple[str, ...]], list[str]]:
    """The workloads that are measured on the same model beside the same peers.

    A workload of `WINDOW_SPECS` has a model of its own; the others run on that asked for.
    """
    found: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for peers, names in by_peers(chosen.workload, chosen.peers).items():
        for name in names:
            own = name if name in WINDOW_SPECS else DEFAULT_MODEL
            found.setdefault((chosen.model or own, peers), []).append(name)
    return found


def by_peers(
    workloads: Sequence[str], peers: Sequence[str] | None
) -> dict[tuple[str, ...], list[str]]:
    """The workloads that are measured beside the same peers.

    Args:
        peers: those asked for; None: each workload's own.
    """
    found: dict[tuple[str, ...], list[str]] = {}
    for name in workloads:
        own = EVALUATION_PEERS.get(name, tuple(DEFAULT_PEERS.split(",")))
        found.setdefault(own if peers is None else tuple(peers), []).append(name)
    return found


def append_record(path: Path, line: str) -> None:
    """Add a line to a file of records."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as records:
        records.write(line + "\n")


def _report(results: Path) -> None:
    try:
        from benchmarks.report import write_report
    except ModuleNotFoundError as missing:
        say(f"no table and plot: {missing.name} is not installed (the extra `report`)")
        return
    for path in write_report(results / records_name(cpu_name())):
        say(f"wrote {path}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add(
        "--workload",
        type=_workloads,
        default="all",
        help=f"all, which are {', '.join(SPECS)}; or some of them and of "
        f"{', '.join([*WINDOW_SPECS, *EVALUATIONS])}",
    )
    add("--model", choices=list(MODELS), help=f"default {DEFAULT_MODEL}, or the workload's own")
    add("--rounds", type=positive, default=3, help="runs of each engine, in turn (default 3)")
    add(
        "--peers",
        type=_peers,
        help=f"none, or of {', '.join(PEERS)} (default "
        f"{DEFAULT_PEERS}, for evaluations vLLM through the harness); transformers is far "
        "slower, give it a small scale",
    )
    add("--scale", type=float, default=1.0, help="smaller counts and lengths, for smoke tests")
    add("--folder", type=Path, default=ROOT / ".bench", help="models, peers, logs, caches")
    add(
        "--results",
        type=Path,
        help="where records, table and plot go (default benchmarks/results; none if scaled)",
    )
    return parser


def _workloads(text: str) -> list[str]:
    return list(SPECS) if text == "all" else _names(text, [*SPECS, *WINDOW_SPECS, *EVALUATIONS])


def _peers(text: str) -> list[str]:
    return [] if text == "none" else _names(text, PEERS)


def _names(text: str, known: list[str]) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
    return names


def positive(text: str) -> int:
    """A whole number of at least 1, of the command line."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
