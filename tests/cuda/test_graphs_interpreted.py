"""Replays over the Triton backend, whose kernels run in Triton's interpreter."""

from __future__ import annotations

import numpy as np

from shoal.attention.triton import TritonAttention
from shoal.cuda.graphs import GraphableAttention
from tests.helpers.cuda_models import random_inputs
from tests.helpers.cuda_standins import OpaqueLaunches
from tests.helpers.cuda_twins import BLOCKS, Twins


def test_the_backend_can_be_captured() -> None:
    assert isinstance(TritonAttention(), GraphableAttention)


def test_a_bucket_is_replayed_with_other_work() -> None:
    rng = np.random.default_rng(1)
    twins = Twins(backend=OpaqueLaunches(TritonAttention()), sizes=(4,))
    for number in (3, 4, 2):
        twins.compare(random_inputs(rng, number, BLOCKS))
    assert twins.graphs.captured == (4,)
    assert twins.recorder.records == 1
