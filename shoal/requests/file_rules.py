"""The rules of OpenAI's Batch API about a file as a whole: what is wrong fails all of it.

`shoal run` turns a bad line into an error record. Over HTTP the lines listed here fail the batch
before anything runs; what else may be wrong with a line (a temperature, a prompt too long) is left
to the run, and gives a record.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shoal.errors import InvalidRequestError
from shoal.model.description import ModelDescription
from shoal.requests.body_fields import endpoint
from shoal.requests.index import LineIndex
from shoal.requests.lines import LineReader, RawLine, open_input
from shoal.requests.reader import validator
from shoal.requests.validate import custom_id_of, decode_line

WHOLE_FILE_CODES = {
    "invalid_json_line",
    "missing_required_parameter",
    "duplicate_custom_id",
    "invalid_url",
    "invalid_request",
    "model_not_found",
    "mismatched_model",
    "streaming_unsupported",
    "empty_file",
    "too_many_lines",
}
"""Errors that fail the file; all others are a line's own."""

MOST_ERRORS = 100
"""Errors that are listed of one file."""


@dataclass(frozen=True, slots=True)
class FileError:
    """What is wrong with a file; `line` counts from 1 and is None for the file as a whole."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


@dataclass
class FileCheck:
    """What was found in a file.

    Attributes:
        requests: lines that are not blank.
        model: what its requests call the model; None: no line says.
        errors: the first `MOST_ERRORS` of them.
    """

    requests: int = 0
    model: str | None = None
    errors: list[FileError] = field(default_factory=list)


def check_file(
    path: Path,
    url: str,
    description: ModelDescription,
    names: Collection[str],
    most_lines: int,
) -> FileCheck:
    """Read a whole batch file and look for what fails it. Memory: 24 bytes per line.

    Args:
        url: the endpoint that all its lines must be for, one of `shoal.types.ENDPOINTS`.
        names: further names of the model, `*` for any.
        most_lines: requests that a file may hold.

    Raises:
        JobError: the file cannot be read.
    """
    check = FileCheck()
    lines = _Lines(url, description, names, check)
    index = LineIndex(path)
    try:
        with open_input(path) as file:
            for raw in LineReader(file):
                if raw.blank:
                    index.append_blank()
                    continue
                check.requests += 1
                index.append(raw.offset, lines.look_at(raw))
                if check.requests > most_lines or len(check.errors) >= MOST_ERRORS:
                    break
        duplicates, firsts = index.duplicates()
        for line, first in zip(duplicates.tolist(), firsts.tolist(), strict=True):
            why = f"custom_id is taken by line {first + 1}; each line needs its own."
            check.errors.append(FileError("duplicate_custom_id", why, "custom_id", line + 1))
    finally:
        index.close()
    check.errors = sorted(check.errors, key=lambda error: error.line or 0)[:MOST_ERRORS]
    if check.requests > most_lines:
        why = f"The file has more than {most_lines:,} requests. Split it into several."
        check.errors.insert(0, FileError("too_many_lines", why))
    if not check.requests:
        check.errors.append(FileError("empty_file", "The file has no request."))
    return check


class _Lines:
    """Looks at one line after the other."""

    def __init__(
        self, url: str, description: ModelDescription, names: Collection[str], check: FileCheck
    ) -> None:
        self._url, self._check = url, check
        self._validator = validator(description, names)

    def look_at(self, raw: RawLine) -> str | None:
        """Note what is wrong with a line; returns its custom_id, if it has one."""
        custom_id = None
        try:
            if raw.data is None:
                raise InvalidRequestError("the line is too long.", code="invalid_json_line")
            content = decode_line(raw.data)
            custom_id = custom_id_of(content)
            self._request(content)
        except InvalidRequestError as error:
            if error.code in WHOLE_FILE_CODES:
                found = FileError(error.code, error.message, error.param, raw.number)
                self._check.errors.append(found)
        return custom_id

    def _request(self, content: dict[str, Any]) -> None:
        given, body = content.get("url"), content.get("body")
        if given is not None and endpoint(given) != self._url:
            raise InvalidRequestError(
                f"url is not the batch's endpoint, {self._url}.", code="invalid_url", param="url"
            )
        if isinstance(body, dict) and body.get("stream") is True:
            raise InvalidRequestError(
                "A batch cannot stream; remove body.stream or set it to false.",
                code="streaming_unsupported",
                param="body.stream",
            )
        wrong = None
        try:
            self._validator.request(content)
        except InvalidRequestError as error:
            wrong = error
        except Exception:  # whatever else a line does, the run gives it a record
            return
        if wrong is not None and wrong.code in WHOLE_FILE_CODES:
            raise wrong
        if isinstance(body, dict) and isinstance(body.get("model"), str):
            self._same_model(body["model"])

    def _same_model(self, model: str) -> None:
        self._check.model = self._check.model or model
        if model != self._check.model:
            raise InvalidRequestError(
                f"body.model differs from that of the lines before, {self._check.model[:100]!r}; "
                "a file is for one model.",
                code="mismatched_model",
                param="body.model",
            )
