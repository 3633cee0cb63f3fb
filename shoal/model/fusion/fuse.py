"""Replaces a loaded model's modules by fused ones, each proved equal before it is used."""

from __future__ import annotations

import inspect
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec

import torch
from torch import nn

from shoal.kernels import Kernels, load_kernels
from shoal.kernels.ops import LayerOps, NativeOps
from shoal.model.fusion.angles import table_width
from shoal.model.fusion.attention_extras import AttentionExtras
from shoal.model.fusion.fused_attention import AttentionLayer, attention_candidates
from shoal.model.fusion.layer import layer_candidates
from shoal.model.fusion.linear import can_pack, is_plain, product_of
from shoal.model.fusion.mlp import FusedMLP, mlp_candidates
from shoal.model.fusion.norm import norm_candidates
from shoal.model.fusion.proof import (
    agree,
    agree_in_most_rows,
    hidden_input,
    norm_input,
    residual_input,
)
from shoal.model.fusion.trial import Call, Trial

_log = logging.getLogger(__name__)


def layer_ops(device: torch.device) -> LayerOps | None:
    """What replacements are made of on a CPU or a CUDA device; None where it is not installed."""
    if device.type == "cpu":
        kernels = load_kernels()
        return None if kernels is None else NativeOps(kernels)
    if find_spec("triton") is None:
        return None
    # Importing it imports triton, which machines without a GPU need not have.
    from shoal.kernels.triton_ops import TritonOps

    return TritonOps()


@dataclass
class Fusion:
    """Replaces modules of one model in place; an original is let go as soon as it is replaced.

    Attributes:
        layers: (kv_heads, key_dim, value_dim) of each attention layer.
        trial: has recorded how the model calls `traced_modules`.
        held: format of the weights of matrix products, see `product_dtype`.
        pack: False: leave the weights of products as they are.
        done: modules replaced so far, by kind.
        refused: modules that stay as they are though they look known, by kind: no replacement
            gave the same.
        reads_positions: layers whose attention does more with positions than to rotate by them,
            and is left as it is.
    """

    module: nn.Module
    layers: list[tuple[int, int, int]]
    trial: Trial
    held: torch.dtype
    pack: bool = True
    done: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    reads_positions: list[int] = field(default_factory=list)

    def run(self, ops: LayerOps) -> None:
        """Replace what can be, from the inside out."""
        self._norms(ops)
        self._mlps(ops)
        self._attention(ops)
        self._layers()

    def report(self) -> None:
        """Log what was replaced, and what was not."""
        _log.info("fused modules: %s", dict(self.done))
        total = len(self.layers)
        kept = {kind: max(0, total - self.done[kind]) for kind in ("attention", "mlp")}
        if any(kept.values()):
            _log.info(
                "run as in transformers, slower: attention of %d and MLP of %d of %d layers",
                *kept.values(),
                total,
            )
        if self.refused:
            _log.info("left as they are, since no replacement agrees: %s", dict(self.refused))
        if self.reads_positions:
            _log.info(
                "attention of %d of %d layers reads positions itself and is not fused",
                len(self.reads_positions),
                len(self.layers),
            )

    def _norms(self, ops: LayerOps) -> None:
        for child in _children(self.module):
            weight = getattr(child.module, "weight", None)
            if isinstance(weight, torch.Tensor) and weight.dim() == 1 and _takes_one(child.module):
                x = norm_input(len(weight), weight)
                self._replace(child, "norm", norm_candidates(child.module, ops), _given(x))

    def _mlps(self, ops: LayerOps) -> None:
        for child in _children(self.module):
            down = getattr(child.module, "down_proj", None)
            if is_plain(down):
                x = norm_input(down.out_features, down.weight)
                self._replace(
                    child,
                    "mlp",
                    mlp_candidates(child.module, ops, self.held, pack=self.pack),
                    _given(x),
                )

    def _attention(self, ops: LayerOps) -> None:
        for child in _children(self.module):
            call = self.trial.calls.get(child.module)
            layer = self.trial.attending.get(child.module)
            if call is None or layer is None:
                continue
            extras = AttentionExtras.of(child.module)
            if extras.query_scale is None and self._reads_positions(child.module, call):
                # Ours knows positions only as rotations and known scales of queries.
                self.reads_positions.append(layer)
            else:
                shape, scale = self.layers[layer], self.trial.scales[layer]
                kind, table = self.trial.kinds[layer], table_width(call.keywords)
                asked = AttentionLayer(layer, shape, scale, kind, extras, table)
                candidates = attention_candidates(
                    child.module, asked, ops, self.held, pack=self.pack
                )
                run = _as_in(call, hidden_input(call.hidden))
                self._replace(child, "attention", candidates, run, self._agree_everywhere)
                # Its weights would be held as long as it is a key.
                del self.trial.calls[child.module]
                del self.trial.attending[child.module]

    def _layers(self) -> None:
        for child in _children(self.module):
            call = self.trial.calls.get(child.module)
            # Gemma 3n's layers are given several hidden states of each row.
            if call is not None and call.hidden.dim() == 3:
                run = _as_in(call, residual_input(call.hidden))
                mlp = getattr(child.module, "mlp", None)
                each = agree if isinstance(mlp, FusedMLP) else agree_in_most_rows
                test = partial(self._agree_everywhere, test=each)
                self._replace(child, "layer", layer_candidates(child.module), run, test)

    def _reads_positions(self, attention: nn.Module, call: Call) -> bool:
        """Whether its result changes, be it by a bit, with the positions it is handed."""
        hidden = hidden_input(call.hidden)
        with self.trial.step():
            here, elsewhere = call.run(attention, hidden), call.elsewhere.run(attention, hidden)
        return not torch.equal(here[0], elsewhere[0])

    def _agree_everywhere(
        self,
        found: object,
        expected: object,
        test: Callable[[object, object], bool] = agree,
    ) -> bool:
        """Whether outputs agree in each of the trial's pieces."""
        found, expected = (out[0] if isinstance(out, tuple) else out for out in (found, expected))
        if not isinstance(found, torch.Tensor) or not isinstance(expected, torch.Tensor):
            return False
        return found.shape == expected.shape and all(
            test(found[:, rows], expected[:, rows]) for rows in self.trial.pieces.rows()
        )

    def _replace(
        self,
        child: _Child,
        kind: str,
        candidates: Iterable[nn.Module],
        run: Callable[[nn.Module], object],
        test: Callable[[object, object], bool] = agree,
    ) -> None:
        """Put the first candidate whose output agrees in the original's place, if there is one."""
        expected = None
        with self.trial.step():
            for candidate in candidates:
                expected = run(child.module) if expected is None else expected
                if test(run(candidate), expected):
                    setattr(child.parent, child.name, candidate)
                    self.done[kind] += 1
                    return
        if expected is not None:
            self.refused[kind] += 1


def _takes_one(module: nn.Module) -> bool:
    """Whether it is called with hidden states alone; a gated norm wants the gate, too, which some
    give a default that does not run."""
    parameters = inspect.signature(module.forward).parameters
    needed = [p for p in parameters.values() if p.default is p.empty and p.kind < p.VAR_POSITIONAL]
    return len(needed) < 2 and "gate" not in parameters


def pack_linears(module: nn.Module, held: torch.dtype, kernels: Kernels | None) -> int:
    """Pack the linear layers that are part of nothing fused, most often the output head.

    Args:
        held: format of the weights of matrix products, see `product_dtype`.

    Returns:
        How many were packed.
    """
    packed = 0
    for child in _children(module):
        linear = child.module
        if is_plain(linear) and can_pack(linear.weight.dtype, held):
            x = norm_input(linear.in_features, linear.weight)
            product = product_of(linear, held, kernels)
            if agree(product(x), linear(x)):
                setattr(child.parent, child.name, product)
                packed += 1
    return packed


def traced_modules(module: nn.Module) -> list[nn.Module]:
    """Modules whose arguments a trial must record: attention, and what holds it."""
    return [
        part
        for part in module.modules()
        if hasattr(part, "layer_idx") or hasattr(part, "self_attn")
    ]


@dataclass(frozen=True)
class _Child:
    parent: nn.Module
    name: str
    module: nn.Module


def _children(module: nn.Module) -> Iterator[_Child]:
    """Every module below `module` and where it hangs, inner ones first; what was yielded is let
    go, so that an original goes when it has been replaced."""
    found = [
        _Child(parent, name, child)
        for parent in module.modules()
        for name, child in parent.named_children()
    ]
    while found:
        yield found.pop()


def _given(x: torch.Tensor) -> Callable[[nn.Module], object]:
    return lambda module: module(x)


def _as_in(call: Call, hidden: torch.Tensor) -> Callable[[nn.Module], object]:
    return lambda module: call.run(module, hidden)
