"""A Ray of this machine's own, for the tests of one file.

Its end comes with the file's: the tests of other folders, in the same process, connect to others.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from typing import Any

import pytest

STORE_BYTES = 200_000_000


@pytest.fixture(scope="module")
def ray_data() -> Iterator[Any]:
    """The module ray.data, on a local Ray of four CPUs by name."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'shoal[ray]'")
    data = importlib.import_module("ray.data")
    ray.init(
        address="local",  # not one that somebody has started on this machine
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=STORE_BYTES,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield data
    finally:
        ray.shutdown()
