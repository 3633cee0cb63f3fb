"""Benchmarks where pydantic is missing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks.bare import Values
from benchmarks.peers.client import ROOT
from shoal.types import RequestParams

_SCRIPT = """
import json, sys
sys.modules["pydantic"] = None
from benchmarks.bare import import_shoal
assert import_shoal()
assert sys.modules.get("pydantic") is None
from shoal.types import RequestParams
made = RequestParams(max_tokens=7, n=2, temperature=0.0, ignore_eos=True)
assert made == RequestParams(max_tokens=7, n=2, temperature=0.0, ignore_eos=True)
assert len({made, RequestParams(max_tokens=7), RequestParams(max_tokens=7)}) == 2
names = json.loads(sys.argv[1])
values = {name: getattr(made, name) for name in names}
values |= {"token_limit": made.token_limit, "greedy": made.greedy, "logs": made.num_logprobs}
print(json.dumps(values))
"""


def test_sampling_parameters_without_pydantic() -> None:
    real = RequestParams(max_tokens=7, n=2, temperature=0.0, ignore_eos=True)
    names = list(RequestParams.model_fields)
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, json.dumps(names)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = {name: getattr(real, name) for name in names}
    expected |= {"token_limit": 7, "greedy": True, "logs": None}
    assert json.loads(done.stdout) == json.loads(json.dumps(expected))


def test_unknown_fields_are_refused() -> None:
    class Pair(Values):
        first = 1

    assert Pair(first=2).first == 2
    assert Pair(first=2) != Pair()
    with pytest.raises(TypeError, match="no field 'second'"):
        Pair(second=2)
