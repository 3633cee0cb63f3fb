from __future__ import annotations

from collections.abc import Iterator

import pytest

from shoal.processes import workers
from tests.helpers.forked import as_if_accelerate_were_installed, launch


@pytest.fixture(autouse=True, scope="module")
def forked_ranks() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setattr(workers, "spawn", launch)
    as_if_accelerate_were_installed(patch)
    yield
    patch.undo()
