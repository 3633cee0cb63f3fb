"""The errors of a request at fault, worded alike wherever they are found."""

from __future__ import annotations

from shoal.errors import InvalidRequestError


def wrong_value(param: str, why: str) -> InvalidRequestError:
    """`param` has a value it may not have: "`param` `why`."."""
    return InvalidRequestError(f"{param} {why}.", code="invalid_value", param=param)


def unsupported(param: str, but: str = "remove it from the request") -> InvalidRequestError:
    """`param` asks for something we do not honour; `but` says what to do instead."""
    return InvalidRequestError(
        f"{param} is not supported; {but}.", code="unsupported_parameter", param=param
    )


def missing(param: str) -> InvalidRequestError:
    """`param` must be given; the contract's code differs inside the body."""
    code = "invalid_request" if param.startswith("body.") else "missing_required_parameter"
    return InvalidRequestError(f"{param} is missing.", code=code, param=param)


def empty_prompt(param: str) -> InvalidRequestError:
    """The prompt in `param` has no token."""
    return wrong_value(param, "is empty; a request needs at least one token of prompt")
