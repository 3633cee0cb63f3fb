"""What happens to a batch outside the engine: its file is checked, its end is written, files go."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import asdict

from shoal.errors import JobError, OutputLockedError, OutputWriteError, ShoalError
from shoal.jobs import JobSpec, run_job
from shoal.model.description import ModelDescription
from shoal.progress import QuietReporter
from shoal.requests import check_file
from shoal.results import CANCELLED, ENGINE_FAILED, EXPIRED, Unexecuted
from shoal.server import states
from shoal.server.batches import Batches
from shoal.server.database import StoredBatch
from shoal.server.files import Files
from shoal.server.runner import Runner
from shoal.server.server_options import Served
from shoal.server.usage import usage_of
from shoal.server.wall_clock import now

POLL_SECONDS = 0.1
SWEEP_SECONDS = 30.0

_log = logging.getLogger(__name__)


class Clerk:
    """A thread beside the runner's. Whatever it was doing at a kill, it does again."""

    def __init__(
        self,
        batches: Batches,
        files: Files,
        runner: Runner,
        served: Served,
        description: ModelDescription,
        most_requests: int,
    ) -> None:
        self._batches, self._files, self._runner = batches, files, runner
        self._served, self._description, self._most = served, description, most_requests
        self._stopping, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="clerk", daemon=True)
        self._sweep_at = 0.0

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """There is something to do."""
        self._wake.set()

    def stop(self) -> None:
        """Stop when what is under way is done."""
        self._stopping.set()
        self._wake.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait(POLL_SECONDS)
            self._wake.clear()
            try:
                self._round()
            except Exception:  # a database that is locked or full: later it may not be
                _log.exception("the clerk failed; it goes on")
                time.sleep(1.0)

    def _round(self) -> None:
        for batch in self._batches.for_the_clerk():
            if self._stopping.is_set():
                return
            if batch.status == states.VALIDATING:
                self._check(batch)
            elif batch.status == states.CANCELLING:
                self._give_up(batch, CANCELLED)
            elif batch.expires_at <= now():
                self._give_up(batch, EXPIRED)
            else:
                self._give_up(batch, ENGINE_FAILED)
        if time.monotonic() >= self._sweep_at:
            self._files.sweep()
            self._sweep_at = time.monotonic() + SWEEP_SECONDS

    def _check(self, batch: StoredBatch) -> None:
        path = self._files.root / batch.input_path
        names = self._served.names
        try:
            check = check_file(path, batch.endpoint, self._description, names, self._most)
        except JobError as error:
            _log.error("batch %s: %s", batch.id, error, extra={"batch": batch.id})
            message = "The input file cannot be read."
            unreadable = {"code": "invalid_request", "line": None, "message": message}
            self._batches.fail(batch.id, [unreadable | {"param": "file_id"}])
            return
        if check.errors:
            self._batches.change(batch.id, (states.VALIDATING,), model=check.model)
            self._batches.fail(batch.id, [asdict(error) for error in check.errors])
            return
        counts = {"total": check.requests, "model": check.model}
        begun = {"status": states.IN_PROGRESS, "in_progress_at": now()}
        if not self._batches.change(batch.id, (states.VALIDATING,), **counts, **begun):
            self._batches.change(batch.id, (states.CANCELLING,), **counts)

    def _give_up(self, batch: StoredBatch, why: Unexecuted) -> None:
        """Write the files of a batch that is not run on: what it has, and what it has not."""
        if self._runner.holds(batch.id):
            return  # it is stopped first
        output = self._files.root / self._batches.output_path(batch.id)
        output.parent.mkdir(parents=True, exist_ok=True)
        spec = JobSpec(
            input=self._files.root / batch.input_path,
            output=output,
            errors=self._files.root / self._batches.error_path(batch.id),
            model=self._served.model,
            options=self._served.options,
            served_names=self._served.names,
        )
        try:
            result = run_job(spec, reporter=QuietReporter(), unexecuted=why)
        except (OutputLockedError, OutputWriteError, OSError) as error:
            about = {"batch": batch.id}
            _log.warning("batch %s cannot be ended yet: %s", batch.id, error, extra=about)
            time.sleep(0.5)
            return
        except ShoalError as error:
            _log.error("batch %s: %s", batch.id, error, extra={"batch": batch.id})
            self._batches.abandon(batch.id)
            return
        counts, usage = result.summary.requests, usage_of(output)
        expired = why is EXPIRED
        self._batches.end(batch.id, counts.succeeded, counts.failed, usage, expired=expired)
