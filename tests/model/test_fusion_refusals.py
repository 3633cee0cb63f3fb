"""Nothing unproved is used: what replaces a module is compared with it first."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from shoal.model.fusion import attention_extras, fuse
from shoal.model.fusion.fuse import Fusion
from shoal.model.fusion.proof import TOLERANCE, agree, agree_in_most_rows, models_agree
from shoal.model.load import load_model
from tests.helpers.fused import WHOLE, description_of, logits, needs_kernels, unfused
from tests.helpers.models import FAMILIES, save_model


class Wrong(nn.Module):
    """Something else than what it wraps, by a factor."""

    def __init__(self, module: nn.Module, factor: float) -> None:
        super().__init__()
        self.module, self.factor = module, factor

    def forward(self, *args: Any, **keywords: Any) -> Any:
        out = self.module(*args, **keywords)
        if isinstance(out, tuple):
            return out[0] * self.factor, *out[1:]
        return out * self.factor


@needs_kernels
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["norm", "mlp", "attention", "layer"])
def test_a_wrong_replacement_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, kind: str
) -> None:
    name, folder = f"{kind}_candidates", save_model(tmp_path, "llama")
    right = getattr(fuse, name)
    factor = 1 + 5 * TOLERANCE[getattr(torch, dtype)]
    monkeypatch.setattr(
        fuse, name, lambda *args, **how: (Wrong(found, factor) for found in right(*args, **how))
    )
    model = load_model(description_of(folder, dtype))
    assert kind not in model.fused
    assert not any(isinstance(part, Wrong) for part in model.module.modules())
    plain, description = unfused(folder, dtype)
    assert models_agree(logits(model, description), logits(plain, description))


class WrongLate(Wrong):
    """Wrong for tokens at positions of more than 100."""

    def forward(self, *args: Any, **keywords: Any) -> Any:
        out, *rest = self.module(*args, **keywords)
        late = (keywords["position_ids"][0] > 100)[:, None]
        return torch.where(late, out * self.factor, out), *rest


@needs_kernels
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_replacement_is_tried_at_every_position(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    """And in none of them may it be wrong, however many rows are right."""
    right, factor = fuse.attention_candidates, 1 + 2 * TOLERANCE[getattr(torch, dtype)]
    monkeypatch.setattr(
        fuse,
        "attention_candidates",
        lambda *args, **how: (WrongLate(found, factor) for found in right(*args, **how)),
    )
    model = load_model(description_of(save_model(tmp_path, "llama"), dtype))
    assert not {"attention", "layer"} & model.fused.keys()


@needs_kernels
def test_attention_that_reads_positions_itself_is_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scale too near 1 for any tolerance is noticed, too, if it is none that we know."""
    monkeypatch.setattr(attention_extras, "_query_scale", lambda module: None)
    rope = {**FAMILIES["ministral3"][1]["rope_parameters"], "llama_4_scaling_beta": 0.01}
    folder = save_model(tmp_path, "ministral3", rope_parameters=rope)
    with caplog.at_level(logging.INFO):
        model = load_model(description_of(folder, "bfloat16"))
    assert not {"attention", "layer"} & model.fused.keys()
    assert {"norm": 5, "mlp": 2}.items() <= model.fused.items()
    assert "attention of 2 of 2 layers reads positions itself" in caplog.text


@needs_kernels
@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("gemma4 shared", "attention of 2 and MLP of 0 of 6 layers"),
        ("gpt_oss", "attention of 0 and MLP of 3 of 3 layers"),
        ("gpt2", "attention of 2 and MLP of 2 of 2 layers"),
    ],
)
def test_what_is_not_fused_is_said_once(
    tmp_path: Path, family: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        load_model(description_of(save_model(tmp_path, family), "float32"))
    assert caplog.text.count(f"run as in transformers, slower: {said}") == 1


@needs_kernels
def test_the_first_right_candidate_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = fuse.norm_candidates

    def wrong_then_right(*args: Any) -> Any:
        for found in right(*args):
            yield Wrong(found, 1.1)
            yield found

    monkeypatch.setattr(fuse, "norm_candidates", wrong_then_right)
    assert load_model(description_of(save_model(tmp_path, "gemma"), "float32")).fused == WHOLE


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_nan_is_no_agreement(dtype: torch.dtype) -> None:
    x = torch.ones(2, 3, dtype=dtype)
    assert agree(x, x.clone())
    assert not agree(x * torch.nan, x)
    assert not agree(x, x * torch.nan)
    assert not agree(x[:1], x)
    assert not agree(x.double(), x)
    assert not models_agree(x * torch.nan, x)


def test_of_layers_with_a_router_the_median_row_counts() -> None:
    """One row whose experts are others is no other layer; half of them are."""
    x = torch.randn(1, 9, 32)
    turned = x.clone()
    turned[0, 3] *= -1
    assert agree_in_most_rows(turned, x)
    assert not agree(turned, x)
    turned[0, :5] *= 1.1
    assert not agree_in_most_rows(turned, x)
    assert not agree_in_most_rows(x * torch.nan, x)
    assert not agree_in_most_rows(x[:, :5], x)
    assert not agree_in_most_rows(x.bfloat16(), x)
    assert not agree_in_most_rows((x,), (x,))


def test_a_model_that_does_not_fit_together_runs_unfused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """For instance one that reads the weight of a linear layer which was replaced."""

    def spoil(self: Fusion, ops: object) -> None:
        for layer in self.module.model.layers:
            layer.mlp = nn.Identity()

    monkeypatch.setattr(Fusion, "run", spoil)
    folder = save_model(tmp_path, "llama")
    with caplog.at_level(logging.WARNING):
        model = load_model(description_of(folder, "float32"))
    assert "without fused modules" in caplog.text
    assert model.fused == {}
    plain, description = unfused(folder, "float32")
    assert torch.equal(logits(model, description), logits(plain, description))


@needs_kernels
def test_what_is_refused_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    right = fuse.mlp_candidates
    monkeypatch.setattr(
        fuse, "mlp_candidates", lambda *args, **how: (Wrong(m, 1.1) for m in right(*args, **how))
    )
    with caplog.at_level(logging.INFO):
        load_model(description_of(save_model(tmp_path, "llama"), "float32"))
    assert "left as they are, since no replacement agrees: {'mlp': 2}" in caplog.text
