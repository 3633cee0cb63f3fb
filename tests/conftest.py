"""What holds for every test."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from tests.helpers.interpreter import INTERPRETED, mend_interpreter

# How long an example takes says how busy the machine is.
settings.register_profile("shoal", deadline=None)
settings.load_profile("shoal")

# Two processes run the tests: threads that spin while they wait would take the other's cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Calibrations of test models do not belong among the user's; one folder serves the whole session.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="shoal-tests-")

collect_ignore_glob = [] if INTERPRETED else ["*_interpreted.py"]
if INTERPRETED:
    mend_interpreter()

HERE = Path(__file__).parent
LONG = {"benchmarks", "cuda", "devices", "e2e", "engine", "fleet", "model", "server"}
LONG |= {"pooling", "ray", "tensor_parallel"}
"""Folders whose tests run whole models or several processes. Elsewhere each is marked by itself."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even import what `-m 'not long'` leaves out."""
    if "not long" not in config.option.markexpr:
        return None
    return True if collection_path.parent == HERE and collection_path.name in LONG else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.relative_to(HERE).parts[0] in LONG:
            item.add_marker("long")
