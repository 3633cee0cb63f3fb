"""Batch files in, batch files out, and nothing ever lost.

A line's way: `lines` (bytes) → `validate` and `prompts` (checked) → `render` (token ids) →
`table` (columns for the engine) → the engine → `records` (JSON) → `journal` (safe) → `finish`
(the job's files, in input order). `reader` leads the first half, `execute` the second, and `run`
decides whether a job begins, resumes or is finished already.
"""

from shoal.jobs.execute import EngineFactory, kv_capacity_tokens
from shoal.jobs.reader import JobInput, read_job
from shoal.jobs.run import JobResult, run_job

__all__ = [
    "EngineFactory",
    "JobInput",
    "JobResult",
    "kv_capacity_tokens",
    "read_job",
    "run_job",
]
