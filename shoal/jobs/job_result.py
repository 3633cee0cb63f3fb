"""What became of a job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.types import RunSummary

if TYPE_CHECKING:
    from shoal.devices import RunProtocol

EXIT_SUCCEEDED = 0
EXIT_SOME_FAILED = 3


@dataclass(frozen=True)
class JobResult:
    """What became of a job.

    Attributes:
        summary: its `requests` count the whole job; tokens, seconds and the rest count this run
            (after a resume, not what earlier runs did).
        already_finished: an earlier run had finished it, and this one did nothing.
        errors: the errors file, or None when no request failed or the file is gone.
        run: plan and trace of this run, None when nothing was left to run.
    """

    summary: RunSummary
    output: Path
    errors: Path | None
    already_finished: bool
    run: RunProtocol | None = None

    @property
    def exit_code(self) -> int:
        """0: every request succeeded; 3: some are in the errors file."""
        return EXIT_SOME_FAILED if self.summary.requests.failed else EXIT_SUCCEEDED
