"""One job on one fleet: the real division against the clock, and how well it used the devices."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.fleet.clock_fleet import ClockFleet
from benchmarks.fleet.fleet_jobs import MACHINE, SEED, FleetJob
from shoal.devices.device_run import DeviceRun
from shoal.simulate import part_seconds

Record = dict[str, Any]


KINDS = ("even", "halves", "stragglers")
"""All alike; half of the devices at half the others' speed; one of 64 at a tenth."""


def speeds_of(devices: int, kind: str) -> npt.NDArray[np.float64]:
    """Speeds, 1.0 on average; at least one device is a slow one."""
    speeds = np.ones(devices)
    slow = np.random.default_rng(SEED).permutation(devices)
    if kind == "halves":
        speeds[slow[: devices // 2]] = 0.5
    if kind == "stragglers":
        speeds[slow[: max(1, devices // 64)]] = 0.1
    return speeds / speeds.mean()


def run_on_clock(job: FleetJob, devices: int, kind: str) -> Record:
    """Run a job on so many devices of a kind in `KINDS`.

    Returns:
        seconds: of the clock, from the division to the last completion.
        ideal_seconds: what is to be done, computed once, over what all devices do in a second.
        efficiency: their ratio.
        divide_seconds, drive_seconds: of the processor, to plan and divide, and for all that the
            driver did afterwards.
        releases: how often a device gave something up.
    """
    speeds = speeds_of(devices, kind)
    fleet = ClockFleet(job, speeds)
    began = time.process_time()
    run = DeviceRun(fleet, job.table)
    divided = time.process_time()
    left = np.ones(len(job.table), dtype=np.bool_)
    for completions in run:
        for completion in completions:
            left[completion.request_index] = False
    if left.any():
        raise RuntimeError(f"{left.sum()} requests were not completed")
    ended = time.process_time()
    seconds = part_seconds(job.table, run.plan, MACHINE)
    own = seconds.sequence * job.factor[run.plan.sequence_request]
    ideal = float(own.sum() + seconds.segment.sum()) / float(speeds.sum())
    return {
        "requests": len(job.table),
        "devices": devices,
        "kind": kind,
        "seconds": fleet.now,
        "ideal_seconds": ideal,
        "efficiency": ideal / fleet.now,
        "divide_seconds": divided - began,
        "drive_seconds": ended - divided - fleet.busy,
        "releases": fleet.releases,
    }
