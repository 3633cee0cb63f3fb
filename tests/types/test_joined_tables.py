"""Requests of several jobs in one table: each is what it is in its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from shoal.types import LengthSwitch, joined
from tests.helpers.request_tables import one, table

LONG, SHORT = list(range(9)), list(range(4))
SWITCH = LengthSwitch(threshold=5, each_length=False, restarts=True)


def test_prompts_of_other_lengths_share_no_prefix_there_either() -> None:
    tables = [replace(table([one(SHORT), one(LONG)], seed), switch=SWITCH) for seed in (1, 2)]
    both = joined(tables)
    assert both.prefix_classes is not None
    assert both.prefix_classes.tolist() == [0, 1, 0, 1]
    assert [both.job_seed_of(request) for request in range(4)] == [1, 1, 2, 2]
    part = both.select(np.array([1, 2]))
    assert part.prefix_classes is not None
    assert part.prefix_classes.tolist() == [1, 0]
    assert [part.job_seed_of(request) for request in range(2)] == [1, 2]


def test_one_table_stays_as_it_is() -> None:
    alone = table([one(SHORT)])
    assert joined([alone]) is alone
