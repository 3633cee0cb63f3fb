"""Relational jobs: one request per row of a table, its fields in the order that shares most.

A `table` and a `template` become the lines of a batch file (`table_requests`), with the fields in
the order that `field_order` finds; `table_job` runs it like any other.
"""

from shoal.tables.table_job import rendered_requests, run_table_job
from shoal.tables.table_requests import FieldOrder

__all__ = ["FieldOrder", "rendered_requests", "run_table_job"]
