"""The runner's side of the talk: start an engine's process, ask, stop it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.preload import preload_of
from benchmarks.workloads import Workload

ROOT = Path(__file__).parents[2]
_LOG_TAIL = 2000


class PeerError(Exception):
    """An engine is not installed, or failed."""


@dataclass(frozen=True)
class Contender:
    """A name in the results: an engine, and how it is asked.

    Attributes:
        sorts: the requests come sorted.
        expert: scores are asked for as an expert would, not as the harness does.
        generates, scores: what kinds of workloads it is measured on.
    """

    engine: str
    sorts: bool = False
    expert: bool = False
    generates: bool = True
    scores: bool = False


CONTENDERS = {
    "shoal": Contender("shoal", scores=True),
    "shoal-int8": Contender("shoal_int8"),
    "vllm": Contender("vllm"),
    "vllm-sorted": Contender("vllm", sorts=True),
    "vllm-harness": Contender("vllm_harness", scores=True),
    "vllm-expert": Contender("vllm_harness", expert=True, generates=False, scores=True),
    "transformers": Contender("transformers"),
}
OURS = "shoal"
INT8 = "shoal-int8"
PEERS = [name for name in CONTENDERS if name not in (OURS, INT8)]


@dataclass(frozen=True)
class RunResult:
    """One timed run, in the order sent: of generation the ids per prompt and choice, else scores.

    Attributes:
        scores: the log-probability of each prompt's scored tokens, and whether they are greedy.
    """

    seconds: float
    token_ids: list[list[list[int]]] = field(default_factory=list)
    peak_rss_bytes: int = 0
    scores: list[tuple[float, bool]] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Generated tokens."""
        return sum(len(ids) for choices in self.token_ids for ids in choices)


def python_of(engine: str, folder: Path) -> Path:
    """The interpreter of an engine's environment.

    Args:
        folder: holds the environments, unless SHOAL_BENCH_VLLM names another place.

    Raises:
        PeerError: it is not installed.
    """
    if not engine.startswith("vllm"):
        return Path(sys.executable)
    environment = Path(os.environ.get("SHOAL_BENCH_VLLM") or folder / "peers" / "vllm")
    python = environment / "bin" / "python"
    if not python.exists():
        raise PeerError(
            f"vLLM is not installed in {environment}: run `make bench-peers` (3.5 GB, a few "
            "minutes), set SHOAL_BENCH_VLLM to an environment that has it, or leave it out with "
            "--peers none"
        )
    if engine == "vllm_harness" and not harness_of(folder).exists():
        raise PeerError(
            f"lm-evaluation-harness is not in {harness_of(folder)}: run `make bench-peers`"
        )
    return python


def harness_of(folder: Path) -> Path:
    """Where the harness that drives vLLM is, for its `PYTHONPATH`."""
    return folder / "peers" / "lm-eval"


class Worker:
    """An engine in a process of its own. Close it, or use it as a context.

    Attributes:
        preload: libraries its process loads before all others.
    """

    def __init__(self, engine: str, folder: Path, threads: int) -> None:
        """Start the process; it holds no model yet.

        Args:
            folder: for logs and caches.
            threads: OpenMP threads.

        Raises:
            PeerError: the engine is not installed.
        """
        self.engine = engine
        python = python_of(engine, folder)
        self.log = folder / "logs" / f"{engine}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "VLLM_CACHE_ROOT": str((folder / "cache" / "vllm").absolute()),
        }
        if engine == "vllm_harness":
            environment["PYTHONPATH"] = str(harness_of(folder).absolute())
        self.preload = preload_of(python.parents[1]) if engine.startswith("vllm") else []
        if self.preload:
            environment["LD_PRELOAD"] = ":".join(self.preload)
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [str(python), "-m", f"benchmarks.peers.run_{engine}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                env=environment,
            )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def load(self, model: Path, kv_gib: int, max_model_len: int) -> dict[str, str]:
        """Load a model; the versions of what the engine runs on.

        Raises:
            PeerError: the engine failed.
        """
        answer = self._ask(
            op="load",
            model=str(model.absolute()),
            kv_gib=kv_gib,
            max_model_len=max_model_len,
        )
        versions: dict[str, str] = answer["versions"]
        return versions

    def run(self, workload: Workload, expert: bool = False) -> RunResult:
        """Run a workload in the order it has.

        Args:
            expert: see `Contender`.

        Raises:
            PeerError: the engine failed.
        """
        if workload.starts is not None:
            asked = {"prompts": workload.prompts, "starts": workload.starts, "expert": expert}
            return RunResult(**self._ask(op="score", **asked))
        answer = self._ask(
            op="run",
            prompts=workload.prompts,
            outputs=workload.outputs,
            n=workload.n,
            temperature=workload.temperature,
        )
        return RunResult(**answer)

    def close(self) -> None:
        """End the process, by force if it does not end by itself."""
        if self._process.stdin and not self._process.stdin.closed:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise PeerError(f"{self.engine} ended unexpectedly; its log ends with\n{self._tail()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerError(f"{self.engine} failed (log: {self.log}):\n{answer['error']}")
        return answer

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-_LOG_TAIL:]
