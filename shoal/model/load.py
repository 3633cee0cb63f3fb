"""Loads an unmodified transformers model and proves that our attention is the one it uses."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from transformers.distributed.configuration_utils import DistributedConfig
from transformers.utils import logging as transformers_logging
from transformers.utils.import_utils import is_accelerate_available

from shoal.attention import AttentionBackend
from shoal.config import Quantization
from shoal.errors import UnsupportedModelError
from shoal.kernels import load_kernels
from shoal.kernels.interface import DTYPES
from shoal.model.alone import prove_positions
from shoal.model.checkpoint import check_files, check_loaded, kept_report, misfit
from shoal.model.description import ModelDescription, load_error
from shoal.model.fusion import (
    TOLERANCE,
    Fusion,
    Trial,
    fused_layers,
    layer_ops,
    models_agree,
    name_linears,
    narrow,
    pack_linears,
    product_dtype,
    quantize,
    traced_modules,
    widen,
)
from shoal.model.heads import auto_class, headed
from shoal.model.hook import ATTENTION_NAME
from shoal.model.latent_layers import keep_latents
from shoal.model.memory import enough_memory, out_of_memory
from shoal.model.packed_cache import packed_keywords
from shoal.model.pieces import Pieces
from shoal.model.probe import check_kv_bytes, own_attention_error, probe_attention
from shoal.model.prove_rows import prove_rows
from shoal.model.prove_states import prove_states
from shoal.model.quantized_modules import (
    quantizer_keywords,
    quiet_quantizers,
    settle_quantized,
)
from shoal.model.recurrent import adapt_states
from shoal.model.rotary import go_by_length, plain_positions
from shoal.model.text_part import refuse_unknown_class, text_part_class
from shoal.work import Window

MOSTLY = 0.9
"""Share of a model's weights of which it is said to be quantized without a warning."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for packed batches.

    Attributes:
        layers: (kv_heads, head_dim, value_dim) of each layer; zeros where one does not attend.
        owners: whose keys and values each layer reads, its own most often.
        fused: how many of its modules were replaced by fused ones, by kind.
        wide: whether its hidden states stay float32 between layers, though it is in bfloat16.
        selects_rows: whether its last layer can be told which rows are wanted (`WantedRows`).
    """

    module: torch.nn.Module
    layers: list[tuple[int, int, int]]
    selects_logits: bool
    fused: dict[str, int] = field(default_factory=dict)
    wide: bool = False
    selects_rows: bool = False
    owners: tuple[int, ...] = ()
    windows: tuple[Window | None, ...] = ()
    """What each attention layer shows its rows, by layer index; None: everything."""

    def logits(
        self, token_ids: torch.Tensor, positions: torch.Tensor, rows: torch.Tensor | None
    ) -> torch.Tensor:
        """Run T packed tokens inside an `attention_step`; logits of some of them.

        Args:
            token_ids, positions: int64 [T]; these carry lengths, see `shoal.model.rotary`.
            rows: int64 [R], rows whose logits are wanted; None: those that the last layer
                computes, which are all, or the step's `WantedRows`.

        Returns:
            [R, vocabulary].
        """
        select = self.selects_logits and rows is not None
        with plain_positions(self.module, positions) as plain:
            keywords = packed_keywords(self.module, plain)
            keywords |= {"logits_to_keep": rows} if select else {}
            out = self.module(
                input_ids=token_ids[None], position_ids=plain[None], use_cache=False, **keywords
            )
        logits: torch.Tensor = out.logits[0]
        return logits if select or rows is None else logits[rows]

    def mirrored(self, backend: AttentionBackend) -> AttentionBackend:
        """The backend to run this model with; another one if other processes run with it."""
        return backend

    def check(self) -> None:
        """To be called before what was computed is believed.

        Raises:
            DeviceLostError: another process that took part in it is gone.
        """

    def close(self) -> None:
        """End the other processes that hold parts of this model, if it has any."""


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars of transformers' own in this block."""
    # transformers leaves these functions without types.
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def load_model(description: ModelDescription) -> LoadedModel:
    """Load the weights, probe the model's attention, and fuse what can be.

    What is to be quantized is fused first, and proved to be the same: after it, nothing can be.

    Raises:
        ModelLoadError: the weights cannot be read, or are not those of the config's model, or
            memory ran out.
        UnsupportedModelError: the weights are quantised, or the model does not use the attention
            it is given, or asks it for a feature we do not honour, or is another in a packed batch
            than alone, or has nothing that can be quantized.
    """
    dtype = str(description.dtype).removeprefix("torch.")
    purpose = f"loading {description.id!r} in {dtype}"
    remedy = "free some, choose a smaller model, or --dtype bfloat16 if that is shorter"
    with enough_memory(purpose, remedy):
        return _load(description)


def _load(description: ModelDescription) -> LoadedModel:
    model = fused_model(partial(_read_weights, description), description)
    if description.quantization is Quantization.none:
        return model
    return _quantize(model, description)


def fused_model(make: Callable[[], torch.nn.Module], description: ModelDescription) -> LoadedModel:
    """A model that `prepare_model` finds right, with fused modules in place of those we know.

    Args:
        make: the model; called again if fusing has spoilt the first.
    """
    fused = _fuse(prepare_model(make(), description), description)
    return prepare_model(make(), description) if fused is None else fused


def _read_weights(description: ModelDescription) -> torch.nn.Module:
    parts = description.tensor_parallel
    split = {"distributed_config": DistributedConfig(tp_size=parts)} if parts > 1 else {}
    stored = description.stored
    check_files(description.source, quantized=stored is not None)
    refuse_unknown_class(description.checkpoint_config)
    text_part = text_part_class(description.checkpoint_config)
    with quiet_transformers(), quiet_quantizers(stored), kept_report() as report:
        try:
            loaded: Any = (text_part or auto_class(description.pooling)).from_pretrained(
                description.source,
                dtype=description.dtype,
                attn_implementation=ATTENTION_NAME,
                trust_remote_code=description.trust_remote_code,
                # Misshaped tensors are refused below, by name.
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **(split or loading_keywords(description.device))
                | quantizer_keywords(stored, description.device),
            )
        except Exception as error:  # what is broken shows as any exception of several libraries
            if out_of_memory(error):
                raise
            _log.debug("cannot load the weights", exc_info=True)
            if isinstance(error, KeyError) and error.args == (ATTENTION_NAME,):
                # Models that look attention up in a table of their own know no name but theirs.
                kind = description.model_type
                raise own_attention_error(kind, "looks up only its own") from error
            if report.unconverted:
                what = f"{', '.join(report.unconverted)} cannot be put together"
                raise misfit(description.id, what) from error
            raise load_error("weights", description.source, error) from error
    module: torch.nn.Module
    module, info = loaded
    check_loaded(module, info, description.id, without_towers=description.whole_config is not None)
    settle_quantized(module, stored)
    return headed(module, description.pooling, description.config)


def loading_keywords(device: torch.device) -> dict[str, Any]:
    """What makes transformers read weights straight to a device, without a copy in host memory.

    It asks for the package accelerate to be installed, though it needs nothing of it for one
    device. Without it weights are read into host memory, and moved.
    """
    if device.type == "cpu":
        return {}
    if not is_accelerate_available():
        _log.info("weights pass through host memory; with accelerate installed they would not")
        return {}
    return {"device_map": {"": device}}


def prepare_model(module: torch.nn.Module, description: ModelDescription) -> LoadedModel:
    """Move a model to its device, probe it, and prove it right in packed batches; see `load_model`.

    Raises:
        UnsupportedModelError: see `load_model`.
    """
    # transformers puts quantised weights where they belong; not all of them can be moved.
    module = (module if description.stored else module.to(description.device)).eval()
    name_linears(module)
    adapt_states(module, description.model_type)
    go_by_length(module, description.length_switch, description.model_type)
    signature = inspect.signature(module.forward).parameters
    model = LoadedModel(module, [], "logits_to_keep" in signature)
    probe = probe_attention(model.logits, description)
    model = LoadedModel(
        module, probe.shapes, model.selects_logits, owners=probe.owners, windows=probe.windows
    )
    kind = description.model_type
    if description.stored:
        prove_rows(module, kind)
    prove_positions(module, model.layers, Pieces.of(description), kind)
    prove_states(module, description.states, kind)
    layers = keep_latents(module, model.layers, model.logits, description)
    check_kv_bytes(layers, model.owners, description)
    return replace(model, layers=layers)


def _can_fuse(description: ModelDescription) -> bool:
    if description.tensor_parallel > 1:
        # Fused modules read whole weights, and know nothing of sums over processes.
        return False
    known = {"cpu": DTYPES.keys(), "cuda": TOLERANCE.keys()}
    return description.dtype in known.get(description.device.type, ())


@torch.inference_mode()
def _fuse(model: LoadedModel, description: ModelDescription) -> LoadedModel | None:
    """The model with fused modules in place of its own; None, and the module is spoilt, if they
    do not fit together."""
    if not _can_fuse(description):
        return model
    trial = Trial(model.layers, description)
    trial.record(traced_modules(model.module), model.logits)
    expected = trial.run(model.logits)
    fusion = _fusion(model, trial, description)
    try:
        _replace_modules(fusion, description)
        found = trial.run(model.logits)
        rounds_inputs = description.stored is not None and description.stored.rounds_inputs
        if models_agree(found, expected, rounds_inputs=rounds_inputs):
            fusion.report()
            fused = replace(model, fused=dict(fusion.done))
            if description.device.type == "cpu":
                fused = replace(fused, wide=_widen(fused, trial, found))
                fused = replace(fused, selects_rows=_select_rows(fused, trial, found))
            return fused
        reason = "its logits change"
    except Exception as error:
        _log.debug("fusing failed", exc_info=True)
        reason = f"{type(error).__name__}: {error}"
    _log.warning(
        "models of type %r run without fused modules, slower: %s",
        description.model_type,
        reason,
    )
    return None


def _fusion(model: LoadedModel, trial: Trial, description: ModelDescription) -> Fusion:
    module, layers = model.module, model.layers
    if description.device.type != "cpu":
        return Fusion(module, layers, trial, description.dtype, pack=False)
    if description.quantization is not Quantization.none:
        # Float32 is what quantized products give.
        return Fusion(module, layers, trial, torch.float32, pack=False)
    return Fusion(module, layers, trial, product_dtype(module, load_kernels()))


def _replace_modules(fusion: Fusion, description: ModelDescription) -> None:
    ops = layer_ops(description.device)
    if ops is not None:
        fusion.run(ops)
    if fusion.pack and (packed := pack_linears(fusion.module, fusion.held, load_kernels())):
        fusion.done["linear"] = packed
    if description.device.type == "cuda":
        # The originals' memory, in pieces of other sizes.
        torch.cuda.empty_cache()


@torch.inference_mode()
def _quantize(model: LoadedModel, description: ModelDescription) -> LoadedModel:
    """The model with its layers' products in 8 bits, and the rest packed."""
    kernels = load_kernels()
    assert kernels is not None  # the option was refused otherwise
    # transformers leaves this method without types.
    found = quantize(model.module, model.module.get_output_embeddings(), kernels)  # type: ignore[operator]
    kind = description.model_type
    if not found.products:
        raise UnsupportedModelError(
            "quantization int8",
            f"models of type {kind!r} have no products that can be quantized: run this one "
            "without --quantization.",
        )
    if found.refused:
        _log.warning(
            "not quantized, since 8 bits are too few for their weights: %s",
            ", ".join(found.refused),
        )
    if found.share < MOSTLY:
        _log.warning(
            "quantization int8 reaches %.0f %% of the weights of this model's layers; it cannot "
            "be had for the others",
            100 * found.share,
        )
    packed = pack_linears(model.module, product_dtype(model.module, kernels), kernels)
    done = {"int8": found.products} | ({"linear": packed} if packed else {})
    return replace(model, fused=model.fused | done)


def _select_rows(model: LoadedModel, trial: Trial, expected: torch.Tensor) -> bool:
    """Let the last layer compute only the rows wanted, if the model is none the worse for it."""
    layers = fused_layers(model.module)
    if not layers or layers[-1].self_attn.layer_idx != len(model.layers) - 1:
        return False
    last = layers[-1]
    last.is_last = True
    found = trial.run_some(model.logits)
    last.is_last = models_agree(found, expected[trial.some_rows])
    return last.is_last


def _widen(model: LoadedModel, trial: Trial, expected: torch.Tensor) -> bool:
    """Keep hidden states in float32 between the layers, if all can and the model is the same."""
    layers = fused_layers(model.module)
    if (
        not layers
        or len(layers) < len(model.layers)
        or not all(layer.can_widen for layer in layers)
    ):
        return False
    widen(layers, expected.dtype)
    try:
        if models_agree(trial.run(model.logits), expected):
            return True
    except RuntimeError:
        # What the model does between its layers does not take another format.
        _log.debug("hidden states stay narrow", exc_info=True)
    narrow(layers)
    return False
