"""The check of a config's activation is transformers' own, and needs nothing that computes."""

from __future__ import annotations

import subprocess
import sys

from transformers.activations import ACT2FN

from shoal.model.activations import COMMON

CHECK = """
import sys
import shoal.model.description
from dataclasses import dataclass
from huggingface_hub.dataclasses import strict
from transformers.utils.type_validators import activation_fn_key

@strict
@dataclass
class Config:  # as transformers' own are made
    hidden_act: str = activation_fn_key(default="gelu")

Config(hidden_act="silu")
assert "transformers.activations" not in sys.modules
Config(hidden_act="mish")
assert hasattr(sys.modules["transformers.activations"], "GELUActivation")
try:
    Config(hidden_act="crelu")
except Exception as error:
    print(error)
"""


def test_common_activations_are_transformers_own() -> None:
    assert set(ACT2FN) >= COMMON


def test_any_activation_is_checked() -> None:
    command = [sys.executable, "-c", CHECK]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Value must be one of [" in done.stdout
    assert "'mish'" in done.stdout
    assert "got crelu" in done.stdout
