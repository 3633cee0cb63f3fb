"""Batch files in, batch files out, and nothing ever lost.

A line's way: `lines` (bytes) → `validate` (checked) → `shoal.prompts` (token ids, columns for
the engine) → the engine → `records` (JSON) → `journal` (safe) → `finish` (the job's files, in
input order). `reader` leads the first half, `execute` the second, and `run` decides whether a job
begins, resumes or is finished already. `plan` stops after the first half. `sources` tells
what the input is. A compressed file or a pipe becomes a batch file first (`spool`), and so do a
table and a template: `template`, `table`, `table_requests`, `table_run`. `paths` knows all files
of a job.
"""

from shoal.jobs.execute import EngineFactory, kv_capacity_tokens
from shoal.jobs.job import JobResult, run_job
from shoal.jobs.paths import check_files, check_folder, check_written
from shoal.jobs.planned_job import PlannedJob, plan_job
from shoal.jobs.reader import JobInput, read_job
from shoal.jobs.sources import readable_source
from shoal.tables.table_job import rendered_requests, run_table_job
from shoal.tables.table_requests import FieldOrder

__all__ = [
    "EngineFactory",
    "FieldOrder",
    "JobInput",
    "JobResult",
    "PlannedJob",
    "check_files",
    "check_folder",
    "check_written",
    "kv_capacity_tokens",
    "plan_job",
    "read_job",
    "readable_source",
    "rendered_requests",
    "run_job",
    "run_table_job",
]
