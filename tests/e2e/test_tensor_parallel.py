"""`shoal run --tensor-parallel N` as a user types it, with processes that the product starts."""

import pytest
from transformers.utils.import_utils import is_accelerate_available

from tests.e2e.conftest import Shoal
from tests.e2e.test_run import FLOAT32, answers
from tests.helpers.e2e_jobs import good


@pytest.mark.skipif(not is_accelerate_available(), reason="transformers asks for accelerate")
def test_three_processes_give_what_one_gives(shoal: Shoal) -> None:
    """The bundled model has 3 KV heads; 3 divides neither its vocabulary nor its inner width."""
    shoal.write("in.jsonl", [good(index) for index in range(24)])
    budget = ("--token-budget", 256, *FLOAT32)
    assert shoal("run", "in.jsonl", "-o", "one.jsonl", *budget) == 0
    code = shoal("run", "in.jsonl", "-o", "three.jsonl", "--tensor-parallel", 3, *budget)
    assert code == 0, shoal.text("stderr")
    assert answers(shoal.read("three.jsonl")) == answers(shoal.read("one.jsonl"))
    assert "not sharded" not in shoal.text("stderr")


def test_what_cannot_be_split_is_refused(shoal: Shoal) -> None:
    shoal.write("in.jsonl", [good(0)])
    assert (
        shoal("run", "in.jsonl", "-o", "out.jsonl", "--tensor-parallel", 2, "--device", "cpu") == 2
    )
    assert "6 query heads and 3 KV heads: give 3." in shoal.text("stderr")
    assert shoal("plan", "in.jsonl", "--tensor-parallel", 3, "--device", "cpu") == 0
