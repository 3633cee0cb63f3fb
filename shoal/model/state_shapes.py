"""The states of a model's recurrent layers, by its config alone."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedConfig

from shoal.errors import UnsupportedModelError
from shoal.model.layer_sizes import RECURRENT_LAYERS, has_states
from shoal.recurrence import StateShape


def state_shapes(config: PreTrainedConfig) -> dict[int, StateShape]:
    """The shape of each recurrent layer's state, by layer index; {} where there are none.

    Raises:
        UnsupportedModelError: a layer keeps a state that we have no functions for.
    """
    if not has_states(config):
        return {}
    # Only here: with it come seconds of imports.
    from transformers import AutoModel

    from shoal.model.recurrent import recurrent_parts, state_shape

    with torch.device("meta"):
        # transformers leaves this function without types.
        built: Any = AutoModel.from_config(config)  # type: ignore[no-untyped-call]
    parts = list(recurrent_parts(built, config.model_type))
    shapes = {int(part.layer_idx): state_shape(part, config) for part in parts}
    expected = [i for i, kind in enumerate(config.layer_types) if kind in RECURRENT_LAYERS]
    if sorted(shapes) != expected or len(parts) != len(shapes):
        raise UnsupportedModelError(
            "recurrent layers",
            f"models of type {config.model_type!r} have recurrent layers of a kind that Shoal does "
            "not run in packed batches yet. Use another model.",
        )
    return shapes
