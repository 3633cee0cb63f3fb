"""What the API takes and gives, as OpenAI's client has it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
)

from shoal.server.store.database import StoredBatch, StoredFile
from shoal.types import ENDPOINTS

LEAST_KEPT_SECONDS, MOST_KEPT_SECONDS = 3600, 30 * 86400
"""How long a client may ask for a file to be kept; the longest is the default."""
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


_WINDOW = r"^[1-9][0-9]{0,4}[smhd]$"


def _without_fraction(value: object) -> object:
    """JSON knows one kind of number: 3.0 is a whole one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_WHOLE = BeforeValidator(_without_fraction)


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEnvelope(BaseModel):
    """How every error is answered."""

    error: ErrorDetail


ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorEnvelope, "description": "The request is wrong."},
    "5XX": {"model": ErrorEnvelope, "description": "The server cannot do it."},
}
"""Of every route, for the OpenAPI document."""


class ExpiresAfter(BaseModel):
    """When a file expires, counted from its creation."""

    model_config = ConfigDict(extra="forbid")
    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(strict=True, ge=LEAST_KEPT_SECONDS, le=MOST_KEPT_SECONDS), _WHOLE]


class CreateBatch(BaseModel):
    """The body of POST /v1/batches; `priority` is ours: lower runs first."""

    model_config = ConfigDict(extra="forbid")
    input_file_id: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    endpoint: Annotated[str, WithJsonSchema({"type": "string", "enum": list(ENDPOINTS)})]
    completion_window: Annotated[str, WithJsonSchema({"type": "string", "pattern": _WINDOW})]
    metadata: (
        Annotated[
            dict[
                Annotated[str, StringConstraints(max_length=64)],
                Annotated[str, StringConstraints(max_length=512)],
            ],
            Field(max_length=16),
        ]
        | None
    ) = None
    output_expires_after: ExpiresAfter | None = None
    priority: Annotated[int, Field(strict=True, ge=-1000, le=1000), _WHOLE] = 0


class FileObject(BaseModel):
    """A file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"] = "processed"
    status_details: None = None

    @classmethod
    def of(cls, file: StoredFile) -> FileObject:
        """A row as clients see it."""
        return cls.model_validate(file, from_attributes=True)


class FileDeleted(BaseModel):
    """What DELETE answers."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class BatchErrors(BaseModel):
    """Why a batch failed."""

    object: Literal["list"] = "list"
    data: list[dict[str, Any]]


class BatchRequestCounts(BaseModel):
    """Of a batch; `failed` are the lines of its error file."""

    total: int
    completed: int
    failed: int


class BatchObject(BaseModel):
    """A batch."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: BatchRequestCounts
    usage: dict[str, Any] | None
    metadata: dict[str, str] | None

    @classmethod
    def of(cls, batch: StoredBatch) -> BatchObject:
        """A row as clients see it."""
        own = {name: getattr(batch, name) for name in cls.model_fields if hasattr(batch, name)}
        own["metadata"] = batch.meta
        own["errors"] = None if batch.errors is None else BatchErrors(data=batch.errors)
        own["request_counts"] = BatchRequestCounts(
            total=batch.total, completed=batch.completed, failed=batch.failed
        )
        own.pop("object", None)
        return cls(**own)


class FileList(BaseModel):
    """One page of files."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class BatchList(BaseModel):
    """One page of batches."""

    object: Literal["list"] = "list"
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ModelObject(BaseModel):
    """A name of the model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["shoal"] = "shoal"


class ModelList(BaseModel):
    """All names."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


def window_seconds(window: str) -> int | None:
    """Seconds of a completion window such as "24h" or "90m"; None: it is none."""
    if re.fullmatch(_WINDOW, window) is None:
        return None
    return int(window[:-1]) * _UNIT_SECONDS[window[-1]]
