"""Which way weights go to the device."""

from __future__ import annotations

import logging

import pytest
import torch

from shoal.model import load as model


@pytest.mark.parametrize("installed", [True, False])
def test_weights_go_straight_to_the_device_where_transformers_can(
    installed: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(model, "is_accelerate_available", lambda: installed)
    device = torch.device("cuda")
    with caplog.at_level(logging.INFO):
        found = model.loading_keywords(device)
    assert found == ({"device_map": {"": device}} if installed else {})
    assert ("host memory" in caplog.text) != installed


def test_on_the_cpu_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "is_accelerate_available", lambda: True)
    assert model.loading_keywords(torch.device("cpu")) == {}
