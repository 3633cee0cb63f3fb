from __future__ import annotations

from pathlib import Path

import pytest

from shoal.engine.description import ModelDescription
from tests.jobs.job import Job
from tests.jobs.support import describe, make_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def description(model: Path) -> ModelDescription:
    return describe(str(model))


@pytest.fixture
def job(tmp_path: Path, model: Path) -> Job:
    return Job(tmp_path, model)
