"""The answers that are errors, in OpenAI's envelope."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse

DO_NOT_RETRY = {"x-should-retry": "false"}
"""What the official client looks at: it repeats a 409 and others by itself."""


class ApiError(Exception):
    """An answer that is an error.

    Attributes:
        status: of HTTP.
        message, param, code: of the envelope.
        headers: further ones.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    def response(self) -> JSONResponse:
        """The answer."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        body = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return JSONResponse({"error": body}, self.status, self.headers)


def wrong(param: str, why: str) -> ApiError:
    """400: a parameter has a value it may not have."""
    return ApiError(400, f"{param} {why}.", param=param, code="invalid_value")


def not_found(what: str, name: str, param: str = "id") -> ApiError:
    """404: no file or batch of this name, or it is another key's."""
    return ApiError(404, f"No such {what}: {name[:100]!r}.", param=param, code=None)


def too_large(most_bytes: int) -> ApiError:
    """413."""
    message = f"The request is too large: at most {most_bytes:,} bytes are taken."
    return ApiError(413, message, code="request_too_large", headers={"connection": "close"})
