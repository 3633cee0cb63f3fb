"""A folder that is no whole model is refused in words, and never run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from shoal.config import EngineOptions
from shoal.errors import ShoalError
from shoal.model.description import ModelDescription
from shoal.model.load import load_model
from tests.helpers.broken_models import breakers
from tests.helpers.models import save_model

BREAKERS = dict(breakers())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("whole") / "model", "llama")


def load(folder: Path | str) -> None:
    load_model(ModelDescription.load(str(folder), EngineOptions(dtype="float32", device="cpu")))


def refusal(folder: Path | str) -> str:
    with pytest.raises(ShoalError) as caught:
        load(folder)
    message = str(caught.value)
    assert len(message) < 400 + len(str(folder)), message
    assert "\n" not in message
    assert "Traceback" not in message
    return message


def test_the_whole_one_loads(whole: Path) -> None:
    load(whole)


def test_a_tokenizer_that_is_missing_is_said_to_be(tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(whole, folder)
    BREAKERS["tokenizer gone"](folder)
    assert "holds no tokenizer: copy tokenizer.json" in refusal(folder)


@pytest.mark.parametrize("name", BREAKERS)
def test_broken_models_are_refused_in_words(tmp_path: Path, whole: Path, name: str) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(whole, folder)
    BREAKERS[name](folder)
    message = refusal(folder)
    assert str(folder) in message or "models of type" in message
