"""A job in a folder, as the tests of whole runs use it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from shoal.config import EngineOptions
from shoal.jobs import JobResult, JobSpec, run_job
from tests.helpers.job_files import FakeEngine, answers, chat, completion, write_lines

MIXED: list = [
    chat("a", "one"),
    b"not json",
    completion("b", ["x", "yz"], n=2),
    chat("c", "please FAIL"),
    completion("d", [65, 66, 67], logprobs=1),
    chat("a", "again"),
    chat("e", "two", temperature=5),
    *[chat(f"more {i}", f"text {i}", seed=i) for i in range(12)],
]
MIXED_ERRORS = {1: None, 3: "c", 5: "a", 6: "e"}
"""custom_id of the lines of MIXED, counted from 0, that end in the errors file."""
FINISHED = {"in.jsonl", "out.jsonl", "out.errors.jsonl", "out.jsonl.journal"}
"""What a job with good and bad lines leaves in its folder."""


@dataclass
class Job:
    """Input, output and model of a job; `run` runs it here with the fake engine."""

    folder: Path
    model: Path
    engines: list[FakeEngine] = field(default_factory=list)

    @property
    def input(self) -> Path:
        return self.folder / "in.jsonl"

    @property
    def output(self) -> Path:
        return self.folder / "out.jsonl"

    @property
    def errors(self) -> Path:
        return self.folder / "out.errors.jsonl"

    @property
    def journal(self) -> Path:
        return self.folder / "out.jsonl.journal"

    def write(self, lines: list) -> Job:
        write_lines(self.input, lines)
        return self

    def run(self, engine: dict | None = None, **arguments: object) -> JobResult:
        """`engine` goes to `FakeEngine`, `arguments` to `JobSpec`."""

        def make(*description_and_options: object) -> FakeEngine:
            self.engines.append(FakeEngine(*description_and_options, **(engine or {})))
            return self.engines[-1]

        defaults = {
            "model": str(self.model),
            "quiet": True,
            "options": EngineOptions(dtype="float32", device="cpu", kv_memory="1MiB"),
        }
        files = {"input": self.input, "output": self.output}
        return run_job(JobSpec(**files | defaults | arguments), engine=make)

    def answers(self) -> list[dict]:
        """Records of both files, without ids and times."""
        found = answers(self.output)
        return found + (answers(self.errors) if self.errors.exists() else [])

    def files(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}


class CrashError(Exception):
    """Of an engine."""


def stop_after(iterations: int, how: BaseException) -> dict:
    """Arguments of an engine that raises after so many iterations."""

    def stop(number: int) -> None:
        if number == iterations:
            raise how

    return {"on_iteration": stop, "width": 2}
