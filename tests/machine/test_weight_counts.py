"""Counts are remembered, and what is remembered is what would be counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import LlamaConfig, PreTrainedConfig

from benchmarks.models import MODELS, make_config
from shoal.machine import weight_counts
from shoal.machine.weight_counts import count_weights


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "shoal" / "weights"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[PreTrainedConfig]:
    """The configs whose models were built."""
    configs: list[PreTrainedConfig] = []
    original = weight_counts._count
    monkeypatch.setattr(weight_counts, "_count", lambda c: (configs.append(c), original(c))[1])
    return configs


def test_a_model_is_counted_once(counted: list[PreTrainedConfig]) -> None:
    config = make_config(MODELS["smoke"])
    assert count_weights(config) == count_weights(make_config(MODELS["smoke"]))
    assert counted == [config]
    config.hidden_size *= 2
    assert count_weights(config) != count_weights(make_config(MODELS["smoke"]))
    assert len(counted) == 2


@pytest.mark.parametrize("change", [{"layers": -1}, {"all": 2.5}, {"more": 1}])
def test_a_damaged_file_is_counted_anew(
    cache: Path, counted: list[PreTrainedConfig], change: dict[str, object]
) -> None:
    config = make_config(MODELS["smoke"])
    counts = count_weights(config)
    (file,) = cache.iterdir()
    for text in (json.dumps(json.loads(file.read_text()) | change), "{", "[]"):
        file.write_text(text)
        assert count_weights(config) == counts
    assert len(counted) == 4


def test_code_of_the_models_own_is_not_remembered(
    counted: list[PreTrainedConfig], cache: Path
) -> None:
    """It may change, and the config stay as it is."""
    config = make_config(MODELS["smoke"])
    assert isinstance(config, LlamaConfig)
    config.auto_map = {"AutoConfig": "configuration_own.OwnConfig"}
    count_weights(config)
    count_weights(config)
    assert len(counted) == 2
    assert not cache.exists()
