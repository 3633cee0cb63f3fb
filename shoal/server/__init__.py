"""`shoal serve`: OpenAI's Files and Batches API on one's own machine.

A request's way: `app` (HTTP, the error envelope) → `files` and `batches` (what clients ask for, in
`database` and on disk) → `clerk` (checks a new batch's file; ends those that are cancelled or have
expired) → `runner` (one batch after the other) → `engine_process` (a process with the model, in
which each batch is one job of `shoal.jobs`).

The database holds what clients are told; a batch's results are in the journal of its job, and then
in its output and error files. After a kill both are read, and every batch goes on.
"""
