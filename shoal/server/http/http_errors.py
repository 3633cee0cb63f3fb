"""OpenAI's error envelope: every error has this form, and says nothing of our insides."""

from __future__ import annotations

import errno
import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from shoal.server.store import DATABASE_REFUSALS, ApiError, is_refusal, reason

_INTERNAL = "The server had an error; its log says which."

_log = logging.getLogger(__name__)


def install_handlers(app: FastAPI) -> None:
    """Answer everything that goes wrong in OpenAI's form."""
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _gone)
    for kind in DATABASE_REFUSALS:
        app.add_exception_handler(kind, _no_database)
    app.add_exception_handler(OSError, _system_error)
    app.add_exception_handler(Exception, _unexpected)


async def _api_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return error.response()


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return _first(error.errors()).response()


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message = str(error.detail)
    if message == HTTPStatus(error.status_code).phrase:
        message = f"{message}: {request.method} {request.url.path[:200]}"
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["allow"] = ", ".join(_methods(request))  # of one route alone, as it comes
    return ApiError(error.status_code, message, headers=headers).response()


def _methods(request: Request) -> list[str]:
    """All that the path of a request takes."""
    methods = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
    scopes = [dict(request.scope) | {"method": method} for method in methods]
    routes = request.app.routes
    return [
        scope["method"]
        for scope in scopes
        if any(route.matches(scope)[0] is Match.FULL for route in routes)
    ]


async def _gone(request: Request, error: Exception) -> JSONResponse:
    return ApiError(400, "The request broke off.", code="client_disconnected").response()


async def _no_database(request: Request, error: Exception) -> JSONResponse:
    if not is_refusal(error):
        return await _unexpected(request, error)
    _log.error("%s %s: the database: %s", request.method, request.url.path, reason(error))
    return ApiError(
        503,
        "The server's database cannot be used at present; try again.",
        code="database_unavailable",
        headers={"retry-after": "5"},
    ).response()


async def _system_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, OSError)
    _log.error("%s %s: %s", request.method, request.url.path, reason(error))
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ApiError(507, "The server's disk is full.", code="disk_full").response()
    return ApiError(500, _INTERNAL).response()


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return ApiError(500, _INTERNAL).response()


def _first(found: Any) -> ApiError:
    """The first of pydantic's complaints."""
    if not found:
        return ApiError(400, "The request is not valid.")
    first = found[0]
    where, kind = ".".join(str(part) for part in first["loc"][1:]), first["type"]
    if kind == "json_invalid":
        return ApiError(400, "The body is not valid JSON.", code="invalid_json")
    if kind == "missing":
        where = where or "body"
        return ApiError(400, f"{where} is missing.", param=where, code="missing_required_parameter")
    if kind == "extra_forbidden":
        return ApiError(
            400, f"{where[:100]} is not a parameter.", param=where[:100], code="unknown_parameter"
        )
    return ApiError(
        400, f"{where[:100]}: {first['msg']}.", param=where[:100] or None, code="invalid_value"
    )
