"""`SegmentWork.only`: the attention of some rows is that of all, with the others left out."""

import numpy as np
import pytest
import torch

from shoal.attention.reference import ReferenceAttention
from tests.attention.test_backends import CPU, filled, random_inputs
from tests.helpers.attention_work import random_case


@pytest.mark.parametrize("seed", range(12))
def test_some_rows_attend_as_among_all(seed: int) -> None:
    torch.manual_seed(seed)
    case = random_case(seed, block_size=16, scattered=True)
    query, keys, values = random_inputs(case, (4, 2), (8, 8), torch.float32)
    backend = ReferenceAttention()
    layer = filled(backend, case, keys, values)
    every = backend(query, layer, case.work, 1.0)
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, case.work.num_rows + 1))
    rows = np.sort(rng.choice(case.work.num_rows, count, replace=False))
    work = case.work.only(rows)
    assert work.num_rows == count
    assert (work.row_last > work.row_first).all()
    at = torch.from_numpy(rows)
    some = backend(query[:, at], layer, backend.prepare(work, CPU), 1.0)
    torch.testing.assert_close(some, every[at])
