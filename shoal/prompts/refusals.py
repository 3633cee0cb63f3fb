"""The errors of a request at fault, worded alike wherever they are found."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from functools import lru_cache

from shoal.errors import InvalidRequestError
from shoal.fates import Fate, Refused

_KINDS = {bool: "a boolean", str: "a string", int: "a whole number", list: "an array"}
_LONGEST_NAME = 40
"""What is longer is no field's name misspelt."""


def check_fields(given: Mapping[str, object], fates: Mapping[str, Fate], where: str) -> None:
    """Refuse fields that are unknown, of a wrong type, or ask for what is not honoured.

    Args:
        given: fields of a request that are not null.
        where: goes before a field's name, for example `body.`.

    Raises:
        InvalidRequestError: names the first such field and what to do.
    """
    for name, value in given.items():
        fate = fates.get(name)
        if fate is None:
            raise _unknown(name, fates, where)
        if fate.kind is not None and not isinstance(value, fate.kind):
            kind = _KINDS.get(fate.kind, "an object")
            raise wrong_value(where + name, f"must be {kind}, not {kind_of(value)}")
        if isinstance(fate, Refused) and fate.refuses(value):
            raise _not_honoured(where + name, value, fate)


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


def outside_vocabulary(
    param: str, token: int, position: int, vocab_size: int
) -> InvalidRequestError:
    """The prompt in `param` has a token id that the model lacks."""
    return wrong_value(
        param,
        f"holds token id {token} at position {position}, outside the model's vocabulary of "
        f"{vocab_size:,}",
    )


def no_tokenizer(param: str, instead: str = "token ids") -> InvalidRequestError:
    """`param` has to do with text, and the model has no tokenizer."""
    return InvalidRequestError(
        f"{param} needs a tokenizer, and the model was loaded without one; give {instead}, or "
        "copy the tokenizer's files into the model's folder.",
        code="tokenizer_missing",
        param=param,
    )


def kind_of(value: object) -> str:
    """What JSON calls the type of a decoded value; true, false and null by their names."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    names = {str: "a string", int: "a number", float: "a number", list: "an array"}
    return names.get(type(value), "an object")


def _not_honoured(param: str, value: object, fate: Refused) -> InvalidRequestError:
    scalar = isinstance(value, bool | int | float | str)  # what nests may be too deep to show
    shown = f"={json.dumps(value)[:80]}" if scalar else ""
    return InvalidRequestError(
        f"{param}{shown} is not supported. {fate.instead}",
        code="streaming_unsupported" if param == "body.stream" else "unsupported_parameter",
        param=param,
    )


def _unknown(name: str, fates: Mapping[str, Fate], where: str) -> InvalidRequestError:
    near = _nearest(name, tuple(fates)) if len(name) <= _LONGEST_NAME else None
    if near is None:
        return unsupported(where + name)
    return unsupported(where + name, f"{near} is; if you mean something else, remove it")


@lru_cache
def _nearest(name: str, known: tuple[str, ...]) -> str | None:
    return next(iter(difflib.get_close_matches(name, known, 1)), None)


def shown(value: object) -> str:
    """A value in a message, or what kind of value it is where it is long."""
    return kind_of(value) if isinstance(value, dict | list) else repr(value)[:100]
