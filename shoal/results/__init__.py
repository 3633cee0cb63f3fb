"""What a job gives: one record per line, as JSON lines or as a table, and what earlier ones held.

`records` writes a line's record, in its endpoint's shape (`logprob_records`, `choice_records`,
`response_records`, `pooled_records`). `results_file` puts records into JSON lines or a table, whose
columns `result_columns` names by what a `survey` of the lines saw. `record_answers` and
`earlier_results` read records back.
"""

from shoal.results.unexecuted import CANCELLED, ENGINE_FAILED, EXPIRED, Unexecuted

__all__ = ["CANCELLED", "ENGINE_FAILED", "EXPIRED", "Unexecuted"]
