"""Records: printed and saved one by one, as soon as they exist."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.runner import commit, rounded, say

FILE = "gpu.jsonl"
Record = dict[str, Any]


@dataclass(frozen=True)
class Machine:
    """Where a run takes place."""

    device: torch.device
    name: str
    smoke: bool
    """Tiny sizes: the figures say nothing."""

    @classmethod
    def of(cls, device: torch.device, smoke: bool) -> Machine:
        """Names the device."""
        cuda = device.type == "cuda"
        name = torch.cuda.get_device_name(device) if cuda else platform.processor() or "CPU"
        return cls(device, name, smoke)


class Recorder:
    """Appends every record to a file and prints it; nothing is kept back."""

    def __init__(self, machine: Machine, folder: Path | None, known: Sequence[Record] = ()) -> None:
        """Begin.

        Args:
            folder: holds `gpu.jsonl`; None: records are only printed.
            known: of an earlier run, to go on from; see `earlier_records`.
        """
        self.records: list[Record] = []
        self._known = [r for r in known if r.get("device") == machine.name]
        self._path = folder / FILE if folder else None
        self._common: Record = {
            "device": machine.name,
            "smoke": machine.smoke,
            "commit": commit(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def known(self, part: str, **values: Any) -> Record | None:
        """What an earlier run on this device found, neither failed nor skipped; None: nothing."""
        wanted = {"part": part, **values}.items()
        for record in reversed(self._known):
            if wanted <= record.items() and not {"error", "skipped"} & record.keys():
                return record
        return None

    def knows(self, part: str, **values: Any) -> bool:
        """Whether an earlier run has this; said aloud."""
        if self.known(part, **values) is None:
            return False
        say(f"known already: {part} {' '.join(map(str, values.values()))}")
        return True

    def add(self, part: str, **values: Any) -> Record:
        """Print and save a record of a part."""
        record = {"part": part, **_readable(values), **self._common}
        self.records.append(record)
        line = json.dumps(record)
        print(line, flush=True)
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write(line + "\n")
        return record


def earlier_records(path: Path) -> list[Record]:
    """The records of a file that `Recorder` wrote."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def versions() -> dict[str, str]:
    """Of the packages that matter, where they are installed."""
    found = {"python": platform.python_version()}
    for name in ("torch", "triton", "transformers", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _readable(value: Any) -> Any:
    """Floats to four digits; everything else as it is."""
    if isinstance(value, dict):
        return {str(key): _readable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_readable(inner) for inner in value]
    return rounded(value) if isinstance(value, float) else value
