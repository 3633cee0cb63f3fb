"""Batch files in, batch files out, and nothing ever lost.

A line's way: `lines` (bytes) → `validate` (checked) → `shoal.requests` (token ids, columns for
the engine) → the engine → `records` (JSON) → `journal` (safe) → `finish` (the job's files, in
input order). `reader` leads the first half, `execute` the second, and `run` decides whether a job
begins, resumes or is finished already. `plan` stops after the first half. A table and a template
become a batch file first: `template`, `table`, `table_requests`, `table_run`.
"""

from shoal.jobs.execute import EngineFactory, kv_capacity_tokens
from shoal.jobs.plan import PlannedJob, plan_job
from shoal.jobs.reader import JobInput, read_job
from shoal.jobs.run import JobResult, run_job
from shoal.jobs.table_requests import FieldOrder
from shoal.jobs.table_run import rendered_requests, run_table_job

__all__ = [
    "EngineFactory",
    "FieldOrder",
    "JobInput",
    "JobResult",
    "PlannedJob",
    "kv_capacity_tokens",
    "plan_job",
    "read_job",
    "rendered_requests",
    "run_job",
    "run_table_job",
]
