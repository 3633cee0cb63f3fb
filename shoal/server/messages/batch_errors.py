"""Why a batch fails as a whole, as its object lists it. None says anything of our insides."""

from __future__ import annotations

from typing import Any


def batch_error(code: str, message: str, param: str | None) -> dict[str, Any]:
    """An entry of a batch's `errors` that is about no line."""
    return {"code": code, "line": None, "message": message, "param": param}


def unsupported_endpoint() -> dict[str, Any]:
    """The model does not do it."""
    message = "The model that is served cannot do what the batch's endpoint asks for."
    return batch_error("unsupported_endpoint", message, "endpoint")


def not_runnable() -> dict[str, Any]:
    """Something else, which whoever runs the server has to look at."""
    message = "The batch cannot be run; the server's log says why."
    return batch_error("batch_not_runnable", message, None)
