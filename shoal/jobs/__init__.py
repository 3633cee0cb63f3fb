"""Batch files in, batch files out, and nothing ever lost.

A line's way: `lines` (bytes) → `validate` (checked) → `shoal.prompts` (token ids, columns for
the engine) → the engine → `records` (JSON) → `journal` (safe) → `finish` (the job's files, in
input order). `reader` leads the first half, `execute` the second, and `job` decides whether a job
begins, resumes or is finished already. `planned_job` stops after the first half. `sources` tells
what the input is. A compressed file, a pipe or a table becomes a batch file first (`spool`).
Results are JSON lines or a table (`results_file`, `parquet_results`). `spec` says what a job is,
`paths` knows all files of it. `file_rules` has the Batch API's rules
about a whole file.
"""

from shoal.jobs.execute import EngineFactory, kv_capacity_tokens
from shoal.jobs.file_rules import FileCheck, FileError, check_file
from shoal.jobs.job import run_job
from shoal.jobs.job_kind import asked_at
from shoal.jobs.job_result import JobResult
from shoal.jobs.paths import check_files, check_folder, check_written
from shoal.jobs.planned_job import PlannedJob, plan_job
from shoal.jobs.reader import JobInput, read_job
from shoal.jobs.sources import readable_source
from shoal.jobs.spec import JobSpec
from shoal.jobs.together import JobOfSeveral, Outcome, run_together
from shoal.jobs.unexecuted import CANCELLED, ENGINE_FAILED, EXPIRED, Unexecuted

__all__ = [
    "CANCELLED",
    "ENGINE_FAILED",
    "EXPIRED",
    "EngineFactory",
    "FileCheck",
    "FileError",
    "JobInput",
    "JobOfSeveral",
    "JobResult",
    "JobSpec",
    "Outcome",
    "PlannedJob",
    "Unexecuted",
    "asked_at",
    "check_file",
    "check_files",
    "check_folder",
    "check_written",
    "kv_capacity_tokens",
    "plan_job",
    "read_job",
    "readable_source",
    "run_job",
    "run_together",
]
