from __future__ import annotations

from pathlib import Path

import pytest

from shoal.model.description import ModelDescription
from tests.helpers.job_files import describe, make_model
from tests.helpers.job_process import Job


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def description(model: Path) -> ModelDescription:
    return describe(str(model))


@pytest.fixture
def job(tmp_path: Path, model: Path) -> Job:
    return Job(tmp_path, model)
