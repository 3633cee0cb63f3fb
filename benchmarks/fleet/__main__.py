"""How a job scales over devices, by simulation: `python -m benchmarks.fleet`.

The code that divides a job, hands it out and lets idle devices take over runs against a clock, on
1 to 1,024 devices, alike and not alike. One JSON line per run; without options the records are
written to benchmarks/results/fleet.jsonl and drawn beside it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.fleet.fleet_drawing import draw_fleet
from benchmarks.fleet.fleet_jobs import SHAPES, fleet_job
from benchmarks.fleet.fleet_run import KINDS, Record, run_on_clock

_DEVICES = [1, 4, 16, 64, 256, 1024]
_SWEEP = [(10**6, "shared-2k", _DEVICES), (10**6, "skewed", _DEVICES), (10**7, "skewed", [1024])]
"""10^7 requests on fewer devices show what 10^6 on a tenth of them do."""
_RESULTS = Path(__file__).parent.parent / "results" / "fleet.jsonl"


def main() -> None:
    """Parse the options and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__)
    parser.add_argument("--requests", type=int, help="of one size; the whole sweep if not given")
    parser.add_argument("--devices", type=int, nargs="+", help="needs --requests")
    parser.add_argument("--shapes", nargs="+", choices=sorted(SHAPES), help="needs --requests")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, help="needs --requests")
    options = parser.parse_args()
    if options.requests is None:
        if options.devices or options.shapes or options.kinds:
            parser.error("--devices, --shapes and --kinds need --requests")
        records = [
            record
            for requests, shape, devices in _SWEEP
            for record in _measured(shape, requests, devices, KINDS)
        ]
        _RESULTS.write_text("".join(json.dumps(record) + "\n" for record in records))
        draw_fleet(records, _RESULTS.with_suffix(".svg"))
        return
    devices = options.devices or _DEVICES
    if min(options.requests, *devices) < 1:
        parser.error("--requests and --devices must be at least 1")
    for shape in options.shapes or sorted(SHAPES):
        list(_measured(shape, options.requests, devices, options.kinds or KINDS))


def _measured(
    shape: str, requests: int, sizes: list[int], kinds: Sequence[str]
) -> Iterator[Record]:
    """On devices of each kind."""
    job = fleet_job(shape, requests)
    for devices in sizes:
        for kind in kinds if devices > 1 else KINDS[:1]:
            record = {"shape": shape} | run_on_clock(job, devices, kind)
            print(json.dumps(record), flush=True)
            yield record


if __name__ == "__main__":
    main()
