"""A model, its engine in this process, and a cluster of two nodes for the small tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from shoal.config import EngineOptions
from shoal.engine.engine import Engine
from shoal.model.description import ModelDescription
from tests.helpers.models import save_model
from tests.helpers.ray_clusters import ray_cluster

OPTIONS = EngineOptions(dtype="float32", device="cpu", kv_memory="256KiB", token_budget=64)


@pytest.fixture(scope="session")
def description(tmp_path_factory: pytest.TempPathFactory) -> ModelDescription:
    folder = save_model(tmp_path_factory.mktemp("model"), "llama")
    return ModelDescription.load(str(folder), OPTIONS)


@pytest.fixture(scope="session")
def engine(description: ModelDescription) -> Engine:
    return Engine(description, replace(OPTIONS))


@pytest.fixture
def cluster() -> Iterator[Any]:
    pytest.importorskip("ray")
    with ray_cluster(1, 1) as cluster:
        yield cluster
