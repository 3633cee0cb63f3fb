"""Relational jobs: one request per row of a table, its fields in the order that shares most.

A `table` and a `template` become the lines of a batch file (`table_requests`), with the fields in
the order that `field_order` finds. `KeptRows` reads the table again, beside its results.
"""

from shoal.tables.kept_rows import KeptRows
from shoal.tables.table_requests import FieldOrder, TableRequests
from shoal.tables.template import read_template

__all__ = ["FieldOrder", "KeptRows", "TableRequests", "read_template"]
