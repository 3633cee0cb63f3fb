"""Reports: what a plan or a run looks like to a person.

In a terminal: `explain` (a job before it runs) and `summary` (after). In a browser: `page`, with
the pictures of `figures`; `icicle` lays the plan's picture out, `units` writes quantities.
"""
