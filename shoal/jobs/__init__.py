"""Batch files in, batch files out, and nothing ever lost.

`spec` says what a job is, `paths` knows all files of it, `sources` tells what its input is. A
compressed file, a pipe or a table becomes a batch file first (`spool`). `job_start` decides whether
a job begins, resumes or is finished already; `header` is its identity. `open_job` is one under way:
`shoal.requests` reads the lines, the engine answers, `shoal.results` words the records, `journal`
keeps them safe and `finish` puts the files in place, in input order. `job` and `execute` run one,
`together` runs several in one run of the engine. `planned_job` stops before the engine.
"""

from shoal.jobs.execute import EngineFactory, kv_capacity_tokens
from shoal.jobs.job import run_job
from shoal.jobs.job_kind import asked_at
from shoal.jobs.job_result import JobResult
from shoal.jobs.paths import check_files, check_folder, check_written
from shoal.jobs.planned_job import PlannedJob, plan_job
from shoal.jobs.sources import readable_source
from shoal.jobs.spec import JobSpec
from shoal.jobs.together import JobOfSeveral, Outcome, run_together

__all__ = [
    "EngineFactory",
    "JobOfSeveral",
    "JobResult",
    "JobSpec",
    "Outcome",
    "PlannedJob",
    "asked_at",
    "check_files",
    "check_folder",
    "check_written",
    "kv_capacity_tokens",
    "plan_job",
    "readable_source",
    "run_job",
    "run_together",
]
