"""A multipart upload, written to the disk as it arrives; memory does not depend on its size."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from email.message import Message
from pathlib import PurePosixPath

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser
from starlette.concurrency import run_in_threadpool

from shoal.server.store import ApiError, Files, NewUpload, too_large, wrong

_GROUP_BYTES = 1024**2
"""So much is collected before it is written."""
_MOST_FIELD_BYTES = 4096
_MOST_PARTS = 16
_MOST_HEADER_BYTES = 8192
_MOST_FORM_BYTES = 64 * 1024
"""What a form may hold besides the file's content."""
FILE_FIELD = "file"


@dataclass
class Form:
    """What was uploaded.

    Attributes:
        fields: the values of all fields but the file.
        filename: as the client calls it, without folders.
        upload: its content, or None when there was no file.
    """

    fields: dict[str, str] = field(default_factory=dict)
    filename: str = ""
    upload: NewUpload | None = None


@dataclass
class _Part:
    """The part that is arriving."""

    headers: dict[str, str] = field(default_factory=dict)
    header_name: bytearray = field(default_factory=bytearray)
    header_value: bytearray = field(default_factory=bytearray)
    name: str = ""
    is_file: bool = False
    value: bytearray = field(default_factory=bytearray)


async def receive_form(
    chunks: AsyncIterator[bytes], content_type: str | None, files: Files, most_bytes: int
) -> Form:
    """Read a form to its end. The caller keeps or drops `Form.upload`.

    Raises:
        ApiError: 400: it is not such a form; 413: the file is too large. Nothing is left then.
    """
    form = _Receiver(_boundary(content_type), files, most_bytes)
    received = 0
    try:
        async for chunk in chunks:
            received += len(chunk)
            if received > most_bytes + _MOST_FORM_BYTES:
                raise too_large(most_bytes)
            form.feed(chunk)
            if len(form.pending) >= _GROUP_BYTES:
                await run_in_threadpool(form.flush)
        form.end()
        await run_in_threadpool(form.flush)
    except BaseException:
        if form.form.upload is not None:
            form.form.upload.drop()
        raise
    return form.form


class _Receiver:
    """The parser's callbacks."""

    def __init__(self, boundary: bytes, files: Files, most_bytes: int) -> None:
        self.form = Form()
        self.pending = bytearray()
        self._files, self._most_bytes = files, most_bytes
        self._part, self._parts, self._ended = _Part(), 0, False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_part_data": self._data,
                "on_part_end": self._end_part,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers,
                "on_end": self._end,
            },
        )

    def feed(self, chunk: bytes) -> None:
        """Take in what arrived; raises `ApiError`."""
        try:
            self._parser.write(chunk)
        except MultipartParseError:
            raise _no_form("is not valid multipart/form-data") from None

    def end(self) -> None:
        """Nothing more arrives; raises `ApiError` if something should."""
        if not self._ended:
            raise _no_form("ends in the middle of the form")

    def flush(self) -> None:
        """Write what is pending."""
        if self.form.upload is not None and self.pending:
            self.form.upload.write(self.pending)
        self.pending.clear()

    def _begin(self) -> None:
        self._part = _Part()
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise _no_form(f"has more than {_MOST_PARTS} parts")

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._grow(self._part.header_name, data[start:end])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._grow(self._part.header_value, data[start:end])

    def _grow(self, header: bytearray, more: bytes) -> None:
        header += more
        if len(header) > _MOST_HEADER_BYTES:
            raise _no_form("has a header that is too long")

    def _header_end(self) -> None:
        part = self._part
        part.headers[_text(part.header_name).lower()] = _text(part.header_value)
        part.header_name.clear()
        part.header_value.clear()

    def _headers(self) -> None:
        message = Message()
        message["content-disposition"] = self._part.headers.get("content-disposition", "")
        self._part.name = str(message.get_param("name", "", "content-disposition"))
        filename = message.get_filename()
        self._part.is_file = self._part.name == FILE_FIELD
        if self._part.is_file:
            if self.form.upload is not None:
                raise wrong(FILE_FIELD, "is given twice")
            self.form.filename = _plain_name(filename or "")
            self.form.upload = self._files.new()

    def _data(self, data: bytes, start: int, end: int) -> None:
        if not self._part.is_file:
            self._part.value += data[start:end]
            if len(self._part.value) > _MOST_FIELD_BYTES:
                raise wrong(self._part.name[:100] or "the form", "has a value that is too long")
            return
        self.pending += data[start:end]
        assert self.form.upload is not None
        if self.form.upload.size + len(self.pending) > self._most_bytes:
            raise too_large(self._most_bytes)

    def _end_part(self) -> None:
        if not self._part.is_file:
            if self._part.name in self.form.fields:
                raise wrong(self._part.name[:100] or "the form", "is given twice")
            self.form.fields[self._part.name] = _text(self._part.value)

    def _end(self) -> None:
        self._ended = True


def _boundary(content_type: str | None) -> bytes:
    message = Message()
    message["content-type"] = content_type or ""
    boundary = message.get_boundary()
    if message.get_content_type() != "multipart/form-data" or not boundary:
        raise _no_form("must be multipart/form-data, with the file in the field `file`")
    return boundary.encode("latin-1", "replace")


def _plain_name(name: str) -> str:
    """What clients see again; no path on this machine is ever made of it."""
    last = PurePosixPath(name.replace("\\", "/")).name
    return "".join(c for c in last if c.isprintable())[-255:]


def _text(data: bytes | bytearray) -> str:
    return bytes(data).decode("utf-8", "replace")


def _no_form(why: str) -> ApiError:
    return ApiError(400, f"The body {why}.", code="invalid_multipart")
