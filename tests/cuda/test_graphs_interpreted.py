"""Replays over the Triton backend, whose kernels run in Triton's interpreter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from shoal.attention.triton import TritonAttention
from shoal.cuda.graphs import GraphableAttention
from shoal.kernels.triton_ops import TritonOps
from shoal.model.fusion import Trial
from tests.helpers.cuda_models import random_inputs
from tests.helpers.cuda_standins import OpaqueLaunches, OpaqueOps
from tests.helpers.cuda_twins import BLOCKS, Twins
from tests.helpers.fused import FUSED, unfused
from tests.helpers.models import save_model
from tests.model.test_triton_fusion_interpreted import fuse


def test_the_backend_can_be_captured() -> None:
    assert isinstance(TritonAttention(), GraphableAttention)


def test_a_bucket_is_replayed_with_other_work() -> None:
    rng = np.random.default_rng(1)
    twins = Twins(backend=OpaqueLaunches(TritonAttention()), sizes=(4,))
    for number in (3, 4, 2):
        twins.compare(random_inputs(rng, number, BLOCKS))
    assert twins.graphs.captured == (4,)
    assert twins.recorder.records == 1


@pytest.mark.parametrize("family", ["llama", "gemma3", "granite_swa"])
def test_fused_modules_are_replayed_with_other_work(tmp_path: Path, family: str) -> None:
    """Layers with a window, too, whose tasks have buffers of their own."""
    model, description = unfused(save_model(tmp_path, family), "float32")
    fusion = fuse(model, Trial(model.layers, description), torch.float32, OpaqueOps(TritonOps()))
    assert fusion.done == FUSED["llama"] or family != "llama"
    assert fusion.done["attention"] == len(model.layers)
    rng = np.random.default_rng(2)
    twins = Twins(backend=OpaqueLaunches(TritonAttention()), sizes=(4,), model=model)
    for number in (3, 4, 1, 2):
        twins.compare(random_inputs(rng, number, BLOCKS))
    assert twins.recorder.records == 1
