"""Models fused with the Triton ops, as on CUDA; see tests/helpers/interpreter.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from shoal.kernels.ops import LayerOps
from shoal.kernels.triton_ops import TritonOps
from shoal.model.fusion import Fusion, Trial, traced_modules
from shoal.model.fusion.proof import models_agree
from shoal.model.load import LoadedModel
from tests.helpers.fused import FUSED, unfused
from tests.helpers.models import ARCHITECTURES, save_model


@torch.inference_mode()
def fuse(
    model: LoadedModel, trial: Trial, dtype: torch.dtype, ops: LayerOps | None = None
) -> Fusion:
    """`ops`: others than Triton's."""
    trial.record(traced_modules(model.module), model.logits)
    fusion = Fusion(model.module, model.layers, trial, dtype, pack=False)
    fusion.run(ops or TritonOps())
    return fusion


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_same_is_fused_as_on_the_cpu(tmp_path: Path, architecture: str) -> None:
    model, description = unfused(save_model(tmp_path, architecture), "float32")
    trial = Trial(model.layers, description)
    with torch.inference_mode():
        expected = trial.run(model.logits)
        fusion = fuse(model, trial, torch.float32)
        assert fusion.done == FUSED[architecture]
        found = trial.run(model.logits)
    assert models_agree(found, expected)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma"])
def test_in_half_precision(tmp_path: Path, architecture: str) -> None:
    """And no further from float32 than the unfused model."""
    folder = save_model(tmp_path, architecture)
    runs = []
    for dtype in ("float32", "float16"):
        model, description = unfused(folder, dtype)
        trial = Trial(model.layers, description)
        with torch.inference_mode():
            runs.append(trial.run(model.logits).float())
    assert fuse(model, trial, torch.float16).done == FUSED[architecture]
    with torch.inference_mode():
        found = trial.run(model.logits).float()
    exact, plain = runs
    assert (found - exact).norm() < 1.25 * (plain - exact).norm()
