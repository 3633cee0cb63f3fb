"""What holds for every test."""

import gc
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from tests.helpers.interpreter import INTERPRETED, mend_interpreter

# How long an example takes says how busy the machine is.
settings.register_profile("shoal", deadline=None)
settings.load_profile("shoal")

# Several processes run the tests: threads that spin while they wait would take the others' cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Calibrations of test models do not belong among the user's; one folder serves the whole session,
# the other processes that run tests included: they inherit it.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="shoal-tests-")
# Nothing that is imported for tests is garbage before they run; see `pytest_collection_finish`.
gc.disable()

collect_ignore_glob = [] if INTERPRETED else ["*_interpreted.py"]
if INTERPRETED:
    mend_interpreter()

HERE = Path(__file__).parent
LONG = {"benchmarks", "cuda", "devices", "e2e", "engine", "fleet", "model", "server"}
LONG |= {"pooling", "ray", "tensor_parallel"}
"""Folders whose tests run whole models or several processes. Elsewhere each is marked by itself."""

ALL_LONG = "\npytestmark = pytest.mark.long\n"
"""Says so of all tests of a file."""

FIRST = (
    "e2e/test_kill.py",
    "server/test_kills.py",
    "server/test_ends.py",
    "server/test_merge.py",
    "ray/test_pieces.py",
    "e2e/test_devices.py",
    "fleet/test_ray.py",
    "fleet/test_ray_kills.py",
    "server/test_faults.py",
    "model/test_every_way.py",
    "e2e/test_run.py",
    "e2e/test_recurrent_states.py",
    "engine/test_answers.py",
    "e2e/test_table.py",
    "requests/test_strange.py",
)
"""Files that take a minute or more: at the end one of them would keep the other processes waiting.
xdist keeps this order with `--no-loadscope-reorder`."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even import what `-m 'not long'` leaves out."""
    if "not long" not in config.option.markexpr:
        return None
    if collection_path.suffix == ".py" and ALL_LONG in collection_path.read_text():
        return True
    return True if collection_path.parent == HERE and collection_path.name in LONG else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.relative_to(HERE).parts[0] in LONG:
            item.add_marker("long")
    items.sort(key=turn)


def turn(item: pytest.Item) -> int:
    """Whole files in order: those of minutes, those of folders that take long, the others."""
    path = item.path.relative_to(HERE)
    if path.as_posix() in FIRST:
        return FIRST.index(path.as_posix())
    return len(FIRST) + (path.parts[0] not in LONG)


def pytest_collection_finish() -> None:
    """From here on garbage is collected, and what stays is not looked through again each time."""
    gc.freeze()
    gc.enable()
