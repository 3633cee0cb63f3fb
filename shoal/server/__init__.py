"""`shoal serve`: OpenAI's Files and Batches API on one's own machine.

A request's way: `http` (routes, the error envelope) → `store` (what clients ask for, in a database
and on disk) → `dispatch` (the clerk has a new batch's file checked, and ends those that are
cancelled or have expired; the runner has those that wait run together) → `workers` (processes with
the model, in which each batch is one job of `shoal.jobs`). `messages` are what they are told and
tell, `live` is what pages and metrics show of it. `serve` puts the rooms together.

The database holds what clients are told; a batch's results are in the journal of its job, and then
in its output and error files. After a kill both are read, and every batch goes on.
"""
