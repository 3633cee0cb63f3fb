"""What a batch file asks for: its lines read, checked, rendered, and columns for the engine.

A line's way: `lines` (bytes) → `validate` (a checked `ParsedRequest`, or an error in words) →
`shoal.prompts` (token ids) → `reader` (columns of a `RequestTable`). `body_fields`, `pooled_fields`
and `response_fields` say what becomes of each field an endpoint knows; `asked_structure`,
`asked_tools` and `scored_choices` what form its answer is to have. `token_input` reads prompts that
are token ids already. `file_rules` has the Batch API's rules about a whole file.
"""

from shoal.requests.file_rules import FileCheck, FileError, check_file
from shoal.requests.reader import JobInput, read_job

__all__ = ["FileCheck", "FileError", "JobInput", "check_file", "read_job"]
