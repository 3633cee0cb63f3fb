"""The process beside the engine's that reads and writes batches' files, but runs no request.

Files are checked with the model's own tokenizer and rules, whose libraries take seconds to load and
hundreds of MB. So the server's process has none of it.
"""

from __future__ import annotations

import logging
import os
from dataclasses import asdict
from typing import Any

from shoal.errors import (
    JobError,
    ModelError,
    OptionError,
    OutputLockedError,
    OutputWriteError,
    ShoalError,
)
from shoal.jobs import asked_at, run_job
from shoal.processes import Parent
from shoal.progress import QuietReporter
from shoal.requests import check_file
from shoal.results import CANCELLED, ENGINE_FAILED, EXPIRED
from shoal.server.logs import set_up_log
from shoal.server.messages import (
    CannotEnd,
    CheckFile,
    Done,
    FileChecked,
    FromClerk,
    GiveUp,
    LoadFailed,
    NotNow,
    batch_error,
    unsupported_endpoint,
)
from shoal.server.server_options import Served
from shoal.server.workers.engine_process import NICENESS, job_spec
from shoal.server.workers.kept_model import Descriptions
from shoal.server.workers.usage import usage_of

_WHY = {why.code: why for why in (CANCELLED, EXPIRED, ENGINE_FAILED)}

_log = logging.getLogger(__name__)


def main(parent: Parent, served: Served) -> int:
    """Do what the server sends; returns when the model cannot be used."""
    set_up_log(served.log_format, "clerk")
    os.nice(NICENESS)
    descriptions = Descriptions(served)
    try:
        _ = descriptions.usual
    except ShoalError as error:
        parent.send(LoadFailed(str(error)))
        return 0
    while True:
        message = parent.receive()
        answer = _check if isinstance(message, CheckFile) else _give_up
        parent.send(answer(message, served, descriptions))


def _check(asked: CheckFile, served: Served, descriptions: Descriptions) -> FromClerk:
    try:
        description = descriptions(asked_at(asked.url, served.options.pooling_type))
    except (ModelError, OptionError) as error:
        _log.warning("batch %s: %s", asked.batch, error, extra={"batch": asked.batch})
        return _failed(asked, unsupported_endpoint())
    try:
        check = check_file(asked.path, asked.url, description, served.names, asked.most_requests)
    except JobError as error:
        _log.error("batch %s: %s", asked.batch, error, extra={"batch": asked.batch})
        unread = batch_error("invalid_request", "The input file cannot be read.", "file_id")
        return _failed(asked, unread)
    errors = [asdict(error) for error in check.errors]
    return FileChecked(asked.batch, check.requests, check.model, errors)


def _failed(asked: CheckFile, error: dict[str, Any]) -> FileChecked:
    return FileChecked(asked.batch, 0, None, [error])


def _give_up(asked: GiveUp, served: Served, descriptions: Descriptions) -> FromClerk:
    task = asked.task
    try:
        task.output.parent.mkdir(parents=True, exist_ok=True)
        result = run_job(
            job_spec(task, served),
            reporter=QuietReporter(),
            unexecuted=_WHY[asked.code],
            describe=descriptions,
        )
        counts = result.summary.requests
        return Done(task.batch, counts.succeeded, counts.failed, usage_of(task.output))
    except (OutputLockedError, OutputWriteError, OSError) as error:
        return NotNow(task.batch, str(error))
    except ShoalError as error:
        return CannotEnd(task.batch, str(error))
