"""What clients were told, and what they sent: it outlives every process.

`database` holds the rows. `files` and `batches` change them, each status in one transaction;
`states` says which follow which. `objects` and `api_errors` are how clients see rows and refusals.
"""

from shoal.server.store.api_errors import ApiError, not_found, too_large, wrong
from shoal.server.store.batches import MOST_STALLS, Batches
from shoal.server.store.database import Database, StoredBatch, StoredFile
from shoal.server.store.files import Files, NewUpload
from shoal.server.store.keys import Keys
from shoal.server.store.lock import data_directory
from shoal.server.store.objects import (
    ERRORS,
    LEAST_KEPT_SECONDS,
    MOST_KEPT_SECONDS,
    BatchList,
    BatchObject,
    CreateBatch,
    FileDeleted,
    FileList,
    FileObject,
    ModelList,
    ModelObject,
    window_seconds,
)
from shoal.server.store.setbacks import DATABASE_REFUSALS, Setbacks, is_refusal, reason
from shoal.server.store.wall_clock import now

__all__ = [
    "DATABASE_REFUSALS",
    "ERRORS",
    "LEAST_KEPT_SECONDS",
    "MOST_KEPT_SECONDS",
    "MOST_STALLS",
    "ApiError",
    "BatchList",
    "BatchObject",
    "Batches",
    "CreateBatch",
    "Database",
    "FileDeleted",
    "FileList",
    "FileObject",
    "Files",
    "Keys",
    "ModelList",
    "ModelObject",
    "NewUpload",
    "Setbacks",
    "StoredBatch",
    "StoredFile",
    "data_directory",
    "is_refusal",
    "not_found",
    "now",
    "reason",
    "too_large",
    "window_seconds",
    "wrong",
]
