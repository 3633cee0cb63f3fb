"""A job of several adapters on the nodes of a real Ray cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Shoal
from tests.e2e.test_adapters import command, lines
from tests.helpers.lora import save_adapter
from tests.helpers.models import save_model

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_as_on_one_machine(tmp_path: Path, cluster: Any) -> None:
    model = save_model(tmp_path / "base", "llama")
    save_adapter(tmp_path / "adapters" / "sql", model, 1, r=8, lora_alpha=16)
    save_adapter(tmp_path / "adapters" / "legal", model, 2, r=16, lora_alpha=32)
    shoal = Shoal(tmp_path)
    shoal.write("in.jsonl", lines())
    assert shoal("run", *command(tmp_path, "-o", "one.jsonl", "--quiet")) == 0
    on_ray = command(tmp_path, "-o", "ray.jsonl", "--quiet", "--ray", cluster.address)
    assert shoal("run", *on_ray) == 0, shoal.text("stderr")
    answers = [
        {each["custom_id"]: each["response"]["body"] for each in shoal.read(name)}
        for name in ("one.jsonl", "ray.jsonl")
    ]
    assert len(answers[0]) == len(lines())
    for custom_id, body in answers[0].items():
        for part in ("model", "choices"):
            assert answers[1][custom_id][part] == body[part]
    texts = {(custom_id, str(body["choices"])) for custom_id, body in answers[0].items()}
    assert len({text for _, text in texts}) > len(lines()) // 2
