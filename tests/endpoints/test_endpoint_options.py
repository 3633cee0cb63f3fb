from __future__ import annotations

import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from shoal.config import EngineOptions
from shoal.endpoints import EndpointOptions
from shoal.endpoints.endpoint_answers import TryAgain, judge, seconds_of
from shoal.endpoints.endpoint_options import base_url
from shoal.errors import OptionError
from shoal.jobs import JobSpec
from shoal.types import CHAT_URL

URL = "http://localhost:8000"


@pytest.mark.parametrize("given", [URL, f"{URL}/", f"{URL}/v1", f"{URL}/v1/"])
def test_the_version_may_be_given(given: str) -> None:
    assert base_url(given) == URL
    assert base_url("https://h/some/v1") == "https://h/some"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("localhost:8000", "no URL"),
        ("ftp://h", "no URL"),
        ("http://", "no URL"),
        ("http://h:port", "no URL"),
        ("http://me:secret@h", "OPENAI_API_KEY"),
        ("http://h/v1?a=b", "before its"),
    ],
)
def test_what_is_no_url(given: str, said: str) -> None:
    with pytest.raises(OptionError, match=said) as caught:
        EndpointOptions(endpoint=[given])
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"endpoint": [URL, f"{URL}/v1"]}, "twice"),
        ({"endpoint": [URL], "endpoint_timeout": 0.0}, "--endpoint-timeout must"),
        ({"endpoint": [URL], "endpoint_timeout": float("nan")}, "--endpoint-timeout must"),
        ({"endpoint": [URL], "endpoint_concurrency": 0}, "--endpoint-concurrency must"),
        ({"endpoint_model": "x"}, "--endpoint-model needs --endpoint"),
        ({"endpoint_patience": 3.0}, "--endpoint-patience needs --endpoint"),
    ],
)
def test_wrong_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        EndpointOptions(**options)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("devices", 2),
        ("tensor_parallel", 2),
        ("quantization", "int8"),
        ("kv_memory", "1GiB"),
        ("sharing", "none"),
        ("token_budget", 9),
        ("order", "blend"),
    ],
)
def test_options_of_an_engine_are_refused(option: str, value: object) -> None:
    options = EngineOptions.create(**{option: value})
    with pytest.raises(OptionError, match=f"--{option.replace('_', '-')}"):
        JobSpec(
            input=Path("a"),
            output=Path("b"),
            options=options,
            endpoints=EndpointOptions(endpoint=[URL]),
        )


@pytest.mark.parametrize("further", [{"schema": Path("s.json")}, {"choices": ["a", "b"]}])
def test_forms_that_only_we_know_are_refused(further: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="do not go together"):
        JobSpec(
            input=Path("a"),
            output=Path("b"),
            endpoints=EndpointOptions(endpoint=[URL]),
            **further,
        )


def test_retry_after() -> None:
    assert seconds_of("2.5") == 2.5
    assert seconds_of("-3") == 0.0
    assert seconds_of("nan") is None
    assert seconds_of("soon") is None
    assert 50 < (seconds_of(formatdate(time.time() + 60, usegmt=True)) or 0) <= 60
    assert seconds_of("1e99") == 3600.0


def test_answers_are_judged() -> None:
    assert isinstance(judge(CHAT_URL, 200, b'{"a": NaN}', None), TryAgain)
    assert isinstance(
        judge(CHAT_URL, 200, b'{"a": %s}' % (b"[" * 900 + b"]" * 900), None), TryAgain
    )
    assert isinstance(judge(CHAT_URL, 200, b'{"error": {"message": "in a 200"}}', None), TryAgain)
    moved = judge(CHAT_URL, 307, b"{}", None)
    assert not isinstance(moved, TryAgain)
    assert "error" in moved.body
    busy = judge(CHAT_URL, 503, b"", "7")
    assert isinstance(busy, TryAgain)
    assert (busy.overloaded, busy.after) == (True, 7.0)
