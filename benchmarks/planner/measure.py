"""One size of the scale benchmark: a file of prompts is opened and planned by a fresh process.

`python -m benchmarks.planner.measure FILE` is that process; it prints one JSON line.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.planner.workload import VOCABULARY, Shape, write_prompts
from shoal.planner import make_plan
from shoal.prompts.length_rules import LengthRules
from shoal.prompts.token_files import open_tokens
from shoal.types import RequestParams

Record = dict[str, Any]

_RULES = LengthRules(max_model_len=4096, capacity_tokens=1 << 40)
_PARAMS = RequestParams(max_tokens=64)
_POLL_SECONDS = 0.01


def measure(shape: Shape, scratch: Path) -> Record:
    """Write the prompts to `scratch`, plan them in a process of its own, delete them.

    Returns:
        requests, tokens, seconds (opening the file to the finished plan; writing it is not
        counted), peak_bytes (resident, with what is mapped of the file), saved (prompt tokens),
        open_seconds (part of seconds), anonymous_bytes (peak without mapped pages, which the
        system may drop at any time; sampled every 10 ms).
    """
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        path = Path(folder) / "tokens.npy"
        write_prompts(shape, path)
        command = [sys.executable, "-m", "benchmarks.planner.measure", str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            anonymous = 0
            while process.poll() is None:
                anonymous = max(anonymous, _memory("RssAnon", process.pid))
                time.sleep(_POLL_SECONDS)
            output = process.communicate()[0]
    if process.returncode:
        raise RuntimeError(f"planning {shape.requests:,} requests failed; see above")
    return json.loads(output) | {"anonymous_bytes": anonymous}


def plan_file(path: Path) -> Record:
    """Open, check and plan a file in this process."""
    began = time.perf_counter()
    columns = open_tokens(path)
    columns.check_vocabulary(VOCABULARY)
    table = columns.table([_PARAMS], _RULES, job_seed=0)
    opened = time.perf_counter()
    plan = make_plan(table)
    ended = time.perf_counter()
    return {
        "requests": len(table),
        "tokens": len(table.tokens),
        "seconds": ended - began,
        "peak_bytes": _memory("VmHWM"),
        "saved": plan.saved_prompt_tokens,
        "open_seconds": opened - began,
    }


def _memory(field: str, process: int | str = "self") -> int:
    """A size in bytes from the system's status of a process; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    print(json.dumps(plan_file(Path(sys.argv[1]))))
