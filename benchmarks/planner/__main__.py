"""How planning scales: `make bench-planner`, or one size with `make bench-planner N=1000000`.

One JSON line per size on standard output; a sweep over all sizes also writes
benchmarks/results/planner.jsonl and draws the curve beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.planner.curve import draw_curve
from benchmarks.planner.measure import Record, measure
from benchmarks.planner.workload import SHARED, default_length, shape_of

_SIZES = {512: range(3, 7), 128: range(3, 8)}
"""Powers of ten of the sweep, by prompt length: 10^7 prompts of 512 tokens are 20 GB."""
_RESULTS = Path(__file__).parent.parent / "results" / "planner.jsonl"
_SCRATCH = Path(".bench") / "planner"


def main() -> None:
    """Parse the options and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planner", description=__doc__)
    parser.add_argument("--requests", type=int, metavar="N", help="one size; all if not given")
    parser.add_argument(
        "--length", type=int, choices=sorted(SHARED), help="tokens per prompt; needs --requests"
    )
    parser.add_argument("--scratch", type=Path, default=_SCRATCH, help="where prompts are written")
    options = parser.parse_args()
    if options.requests is not None:
        if options.requests < 1:
            parser.error("--requests must be at least 1")
        length = options.length or default_length(options.requests)
        _measured(options.requests, length, options.scratch)
    elif options.length is not None:
        parser.error("--length needs --requests")
    else:
        sweep(options.scratch, _RESULTS)


def sweep(scratch: Path, results: Path) -> None:
    """Measure every size, write the records and draw the curve."""
    records = [
        _measured(10**power, length, scratch)
        for length, powers in _SIZES.items()
        for power in powers
    ]
    results.write_text("".join(json.dumps(record) + "\n" for record in records))
    for path in draw_curve(records, results):
        print(f"wrote {path}", file=sys.stderr)


def _measured(requests: int, length: int, scratch: Path) -> Record:
    record = measure(shape_of(requests, length), scratch)
    print(json.dumps(record), flush=True)
    return record


if __name__ == "__main__":
    main()
