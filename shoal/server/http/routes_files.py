"""/v1/files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool

from shoal.server.http.uploads import FILE_FIELD, Form, receive_form
from shoal.server.http.who import Who
from shoal.server.store import (
    LEAST_KEPT_SECONDS,
    MOST_KEPT_SECONDS,
    ApiError,
    FileDeleted,
    FileList,
    FileObject,
    Files,
    StoredFile,
    too_large,
    wrong,
)

UPLOAD_PATH = "/v1/files"
MOST_LISTED = 10_000
_ANCHOR, _SECONDS = "expires_after[anchor]", "expires_after[seconds]"
_FORM = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"type": "string", "enum": ["batch"]},
        _ANCHOR: {"type": "string", "enum": ["created_at"]},
        _SECONDS: {
            "type": "integer",
            "minimum": LEAST_KEPT_SECONDS,
            "maximum": MOST_KEPT_SECONDS,
        },
    },
}
_OPENAPI = {
    "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}
}


def file_routes(files: Files, most_bytes: int) -> APIRouter:
    """The routes; an upload has at most so many bytes."""
    routes = APIRouter(prefix=UPLOAD_PATH)

    @routes.post("", openapi_extra=_OPENAPI)
    async def upload_file(request: Request, who: Who) -> FileObject:
        """Upload a batch file."""
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > 2 * most_bytes + 2**20:
            raise too_large(most_bytes)
        form = await receive_form(
            request.stream(), request.headers.get("content-type"), files, most_bytes
        )
        return FileObject.of(await run_in_threadpool(_keep, files, who, form))

    @routes.get("")
    def list_files(
        who: Who,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = MOST_LISTED,
        order: Literal["asc", "desc"] = "desc",
        purpose: str | None = None,
    ) -> FileList:
        """The files of a key, newest first."""
        found, more = files.page(who, after, limit, order == "asc", purpose)
        data = [FileObject.of(file) for file in found]
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return FileList(data=data, first_id=first, last_id=last, has_more=more)

    @routes.get("/{id}")
    def retrieve_file(id: str, who: Who) -> FileObject:
        """What is known of a file."""
        return FileObject.of(files.get(who, id))

    @routes.delete("/{id}")
    def delete_file(id: str, who: Who) -> FileDeleted:
        """Delete a file; a batch that reads it goes on."""
        files.delete(who, id)
        return FileDeleted(id=id)

    @routes.get("/{id}/content", response_class=FileResponse)
    def retrieve_content(id: str, who: Who) -> FileResponse:
        """A file's content."""
        path = files.content(files.get(who, id))
        about = path.stat()  # one that is gone is an error before the answer begins
        return FileResponse(path, media_type="application/octet-stream", stat_result=about)

    return routes


def _keep(files: Files, who: str, form: Form) -> StoredFile:
    """Check the form, then make its file last."""
    upload = form.upload
    try:
        kept = _kept_seconds(form.fields)
        if upload is None:
            raise ApiError(
                400, "file is missing.", param=FILE_FIELD, code="missing_required_parameter"
            )
        _check_purpose(form.fields.get("purpose"))
        if not form.filename.endswith(".jsonl"):
            raise ApiError(
                400,
                "Invalid file format for Batch API. Must be .jsonl",
                param=FILE_FIELD,
                code="invalid_file_format",
            )
        upload.keep()
    except BaseException:
        if upload is not None:
            upload.drop()
        raise
    return files.add(upload, who, form.filename, kept)


def _check_purpose(purpose: str | None) -> None:
    if purpose is None:
        raise ApiError(
            400, "purpose is missing.", param="purpose", code="missing_required_parameter"
        )
    if purpose != "batch":
        raise wrong("purpose", "must be 'batch'")


def _kept_seconds(fields: Mapping[str, str]) -> int:
    for name in fields:
        if name not in ("purpose", _ANCHOR, _SECONDS):
            raise ApiError(
                400,
                f"{name[:100]} is not a parameter.",
                param=name[:100],
                code="unknown_parameter",
            )
    anchor, seconds = fields.get(_ANCHOR), fields.get(_SECONDS)
    if anchor is None and seconds is None:
        return MOST_KEPT_SECONDS
    if anchor != "created_at":
        raise wrong(_ANCHOR, "must be 'created_at'")
    allowed = f"must be a whole number from {LEAST_KEPT_SECONDS} to {MOST_KEPT_SECONDS}"
    if seconds is None or not (seconds.isascii() and seconds.isdecimal()) or len(seconds) > 9:
        raise wrong(_SECONDS, allowed)
    if not LEAST_KEPT_SECONDS <= int(seconds) <= MOST_KEPT_SECONDS:
        raise wrong(_SECONDS, allowed)
    return int(seconds)
