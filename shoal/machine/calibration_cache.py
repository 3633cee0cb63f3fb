"""Calibrations remembered per machine and model, a small file each."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import platform
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from shoal.costs import Rates
from shoal.kernels.processor import processor_field
from shoal.model.description import ModelDescription

VERSION = 8
"""Of the file, of what is measured and of the kernels: a calibration of another version is measured
anew."""

DEFAULT_TOKEN_BUDGET = 2048
"""Where nothing was measured: planning without weights, pools too small to try."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Calibration:
    """What was measured of a model on this machine."""

    token_budget: int
    rates: Rates


def device_threads(devices: int) -> int:
    """CPU threads that each of so many devices has, one process for each."""
    return max(1, torch.get_num_threads() // devices)


def remembered(description: ModelDescription, threads: int | None = None) -> Calibration | None:
    """What was measured earlier; None where there is nothing that makes sense.

    Args:
        threads: torch's CPU threads when it was measured; None: as many as now.
    """
    try:
        data = json.loads(cache_path(description, threads).read_text())
        if data["version"] != VERSION or type(data["token_budget"]) is not int:
            return None
        found = Calibration(data["token_budget"], Rates(**data["rates"]))
        values = [float(value) for value in asdict(found.rates).values()]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    sound = all(math.isfinite(value) and value >= 0 for value in values)
    rates = (found.rates.flops_per_second, found.rates.bytes_per_second, found.token_budget)
    return found if sound and min(rates) > 0 else None


def token_budget_of(calibration: Calibration | None) -> int:
    """The budget that was measured; the default where nothing was."""
    return DEFAULT_TOKEN_BUDGET if calibration is None else calibration.token_budget


def remember(description: ModelDescription, calibration: Calibration) -> None:
    """Keep a calibration; a cache that cannot be written costs a measurement next time."""
    save_json(cache_path(description), {"version": VERSION, **asdict(calibration)})


def cache_path(description: ModelDescription, threads: int | None = None) -> Path:
    """The file that remembers a model's calibration on this machine; see `remembered`."""
    facts = (
        description.config.to_json_string(),
        str(description.dtype),
        str(description.quantization),
        str(description.device),
        str(description.tensor_parallel),
        processor_field("model name") or platform.machine(),
        str(threads or torch.get_num_threads()),
        torch.__version__,
        *_accelerator(description.device),
        *([] if description.stored is None else [str(description.stored)]),
    )
    return cache_file("calibration", facts)


def cache_file(kind: str, facts: Iterable[str]) -> Path:
    """The file for what depends on nothing but these facts."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    digest = hashlib.blake2b("\n".join(facts).encode(), digest_size=8).hexdigest()
    return Path(cache) / "shoal" / kind / f"{digest}.json"


def save_json(path: Path, value: dict[str, Any]) -> None:
    """Put a file in its place, whole or not at all; that it cannot be written is only logged."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump(value, file)
        os.replace(file.name, path)
    except OSError as error:
        _log.info("cannot remember in %s: %s", path, error)


def _accelerator(device: torch.device) -> list[str]:
    """The device's name, where it is not the processor."""
    return [] if device.type == "cpu" else [torch.cuda.get_device_name(device)]
