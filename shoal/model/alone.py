"""Proof that a model is the same in a packed batch as alone, at every position.

The packed batch holds a few tokens of many sequences (`shoal.model.pieces`). Each is run again by
itself, as transformers would go on with it: the cache says how many tokens came before, the model
finds positions and makes masks itself, and its own function attends.

What enters a layer is taken from the packed batch: so rounding does not grow, and no router turns.
A layer ends where it has attended for the last time, before its larger products. Only the first
runs to its end, and what it gives enters all others.

Every layer is tried by the piece that ends with the longest sequence there may be. By the other
pieces one layer of each kind is (`shoal.model.alike`).

A batch may have more rows than a sequence has tokens. So the packed batch runs once more, as if its
rows came after as many others as the model can count: it has to be the same.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from shoal.attention import KVShape
from shoal.attention.reference import ReferenceAttention
from shoal.errors import UnsupportedModelError
from shoal.model.alike import unlike_layers
from shoal.model.hook import AttentionCall, attention_step, masks_are_made
from shoal.model.layer_list import layers_with_memories
from shoal.model.layer_sizes import stated
from shoal.model.layers_entered import Run, layers_entered
from shoal.model.packed_cache import packed_keywords
from shoal.model.pieces import FIRST_TOKENS, Pieces
from shoal.model.rotary import row_lengths
from shoal.scheduler import BLOCK_SIZE
from shoal.work import SegmentWork, Window

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 2e-2, torch.float16: 5e-3}
"""Largest relative distance |a - b| / |b| of a row that is taken for rounding."""

_log = logging.getLogger(__name__)


@torch.inference_mode()
def prove_positions(
    module: nn.Module,
    shapes: list[tuple[int, int, int]],
    pieces: Pieces,
    kind: str,
) -> None:
    """Compare a packed batch with each of its pieces run alone.

    Args:
        shapes: (kv_heads, key_dim, value_dim) of each layer.
        kind: the model's type, for messages.

    Raises:
        UnsupportedModelError: the model does something else in a packed batch than alone.
    """
    memories = layers_with_memories(module, (i for i, shape in enumerate(shapes) if shape[0]))
    layers = list(memories)
    if not layers:
        raise _untried(kind, "its layers are not in one list")
    tried = unlike_layers(layers, module.config)  # type: ignore[arg-type]
    weight = next(module.parameters())
    ids, positions = pieces.token_ids.to(weight.device), pieces.positions.to(weight.device)
    try:
        given = packed_keywords(module, positions)
        packed = _Packed(pieces, shapes, memories, weight.dtype, weight.device)
        packed.run(module, use_cache=False, **given)
        later = packed
        if not given:
            later = _Packed(pieces, shapes, memories, weight.dtype, weight.device)
            far = Cache([_Unseen(max(_counted(module), len(pieces.positions))) for _ in shapes])
            later.run(module, use_cache=True, past_key_values=far)
        alone = _Alone(packed, tried)
        # Some models with recurrent layers count positions from 0 unless they are told, as
        # `generate` tells them.
        told = any(shape[0] == 0 for shape in shapes)
        longest = int(pieces.positions.max())
        # All are run, whatever is found: of a model in several processes, each finds its own.
        for piece, rows in enumerate(pieces.rows()):
            past, last = (int(pieces.positions[row]) for row in (rows.start, rows.stop - 1))
            alone.begin(piece, rows, past, layers if last == longest else tried)
            cache = Cache([_Unseen(past) for _ in shapes])
            with (
                attention_step(alone),
                layers_entered(layers, alone.enter),
                masks_are_made(),
                suppress(_Attended),
            ):
                own = {"position_ids": positions[None, rows]} if told else {}
                module(input_ids=ids[None, rows], past_key_values=cache, use_cache=True, **own)
    except Exception as error:
        _log.debug("proof by position failed", exc_info=True)
        raise _untried(kind, f"{type(error).__name__}: {error}") from error
    every, once = (sum(len(memories[layer]) for layer in some) for some in (layers, tried))
    if alone.calls != every + once * (len(pieces.work) - 1):
        raise _untried(kind, "some of its layers attend to nothing")
    found = alone.found if packed.agrees(later) else [*alone.found, (0, _ORDER.index("rows"))]
    if found:
        position, what = min(found)
        raise _refusal(kind, position, _ORDER[what])


# transformers leaves the methods of its caches without types.
class _Unseen(DynamicLayer):  # type: ignore[no-untyped-call]
    """A layer's cache that says it has a number of tokens, and hands out only later ones."""

    def __init__(self, past: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._past = past

    def get_seq_length(self) -> int:
        return self._past + int(super().get_seq_length())


class _Attended(Exception):  # noqa: N818 - not an error
    """Ends a layer, or the model with its last layer, when it has attended for the last time."""


class _Packed:
    """Runs the packed batch, and keeps what layers and attention are given.

    Attributes:
        memories: which each layer reads, by the index of what attends to it.
        calls: of attention, by the same.
        entered: hidden states [1, T, hidden] that enter each layer.
        recurrent: hidden states [1, T, hidden] that enter each recurrent module.
    """

    def __init__(
        self,
        pieces: Pieces,
        shapes: list[tuple[int, int, int]],
        memories: dict[nn.Module, frozenset[int]],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._backend = ReferenceAttention()
        # What attends stores its own anew before, so memories of one shape share their place.
        pools = {
            shape: self._backend.allocate(
                KVShape(*shape, pieces.num_blocks, BLOCK_SIZE, dtype, device)
            )
            for shape in set(shapes)
            if shape[0]
        }
        self._pools = {layer: pools[shape] for layer, shape in enumerate(shapes) if shape[0]}
        self._pieces, self._slots = pieces, pieces.slots.to(device)
        self.memories, self.layers = memories, list(memories)
        self.calls: dict[int, AttentionCall] = {}
        self.entered: dict[nn.Module, torch.Tensor] = {}
        self.recurrent: dict[nn.Module, torch.Tensor] = {}
        self._to_its_end = False
        self._unread: set[int] = set()
        """Memories of the layer that runs which it has not read yet."""
        self._given: Any = None
        """What the first layer gives: hidden states, or a tuple that begins with them."""

    def run(self, module: nn.Module, **keywords: Any) -> None:
        """Run the batch through the model, with some keywords besides."""
        device = self._slots.device
        with (
            attention_step(self),
            layers_entered(self.layers, self.enter),
            row_lengths(self._pieces.lengths.to(device)),
            suppress(_Attended),
        ):
            module(
                input_ids=self._pieces.token_ids.to(device)[None],
                position_ids=self._pieces.positions.to(device)[None],
                **keywords,
            )

    def agrees(self, other: _Packed) -> bool:
        """Whether the same was handed to layers, recurrent modules and attention in another run."""
        pairs = [(self.entered[layer], other.entered[layer]) for layer in self.layers]
        pairs += [(hidden, other.recurrent[part]) for part, hidden in self.recurrent.items()]
        pairs = [(_by_row(mine), _by_row(theirs)) for mine, theirs in pairs]
        for layer, mine in self.calls.items():
            theirs = other.calls[layer]
            some = (mine.query, theirs.query), (mine.key, theirs.key), (mine.value, theirs.value)
            pairs += [(_rows_first(one), _rows_first(two)) for one, two in some]
        return not any(bool(_differ(one, two).any()) for one, two in pairs)

    def enter(self, layer: nn.Module, hidden: torch.Tensor, run: Run) -> Any:
        """A layer is entered; the first gives what it gives, the others what entered them."""
        self.entered[layer], self._unread = hidden, set(self.memories[layer])
        self._to_its_end = layer is not self.layers[-1] and layer is self.layers[0]
        if self._to_its_end:
            self._given = run(hidden)
            return self._given
        with suppress(_Attended):
            run(hidden)
        return self.left(layer, hidden)

    def left(self, layer: nn.Module, hidden: torch.Tensor) -> Any:
        """Hidden states as a layer gives them; the model ends with the last layer."""
        if layer is self.layers[-1]:
            raise _Attended
        return (hidden, *self._given[1:]) if isinstance(self._given, tuple) else hidden

    def observe(self, call: AttentionCall) -> torch.Tensor:
        """See `AttentionObserver`."""
        self.calls[call.layer] = call
        self._unread.discard(call.layer)
        if self._to_its_end or self._unread:
            rows = slice(self._pieces.work.num_rows)
            return self._attend(call, rows, self._pieces.work)[None]
        raise _Attended

    def observe_state(self, call: Any) -> torch.Tensor:
        """See `AttentionObserver`: what a recurrent module makes of its inputs is not tried here
        (`shoal.model.prove_states`), only that they are the same."""
        self.recurrent[call.module] = call.hidden
        return torch.zeros_like(call.hidden)

    def attention(self, layer: int, piece: int) -> torch.Tensor:
        """Segment attention of a piece's rows: [k, heads, value_dim]."""
        rows = self._pieces.rows_of(piece)
        return self._attend(self.calls[layer], rows, self._pieces.work_of(piece))

    def _attend(self, call: AttentionCall, rows: slice, work: SegmentWork) -> torch.Tensor:
        pool = self._pools[call.layer]
        self._backend.store(pool, self._slots, call.key[0], call.value[0])
        return self._backend(call.query[0, :, rows], pool, work, call.scale, call.kind)


class _Alone:
    """Compares what a piece does alone with the packed batch.

    Args:
        everywhere: layers that are run in all pieces.

    Attributes:
        found: (position, index in `_ORDER`) of differences; position 0 where it is not known from
            which on, since a layer was tried at the last only.
        calls: of attention that were compared.
    """

    def __init__(self, packed: _Packed, everywhere: list[nn.Module]) -> None:
        self._packed, self._everywhere = packed, everywhere
        self._piece, self._rows, self._past = 0, slice(0), 0
        self._layers: list[nn.Module] = []
        self._known = True
        self._unread: set[int] = set()
        self._masks: list[tuple[torch.Tensor, Window | None]] = []
        self.found: list[tuple[int, int]] = []
        self.calls = 0

    def begin(self, piece: int, rows: slice, past: int, layers: list[nn.Module]) -> None:
        """The next forward is of a piece's rows, after `past` tokens, and tries these layers."""
        self._piece, self._rows, self._past = piece, rows, past
        self._masks, self._layers = [], layers

    def enter(self, layer: nn.Module, hidden: torch.Tensor, run: Run) -> Any:
        """A layer is entered: of the first the inputs count, the others get the packed ones."""
        packed = self._packed.entered[layer][..., self._rows, :]
        self._known = layer in self._everywhere
        if layer is self._packed.layers[0]:
            self._compare("embeddings", _by_row(hidden), _by_row(packed))
        if layer in self._layers:
            self._unread = set(self._packed.memories[layer])
            with suppress(_Attended):
                run(packed)
        return self._packed.left(layer, packed)

    def observe_state(self, call: Any) -> torch.Tensor:
        """See `AttentionObserver`."""
        packed = self._packed.recurrent[call.module][:, self._rows]
        self._compare("state", call.hidden[0], packed[0])
        return torch.zeros_like(call.hidden)

    def observe(self, call: AttentionCall) -> torch.Tensor:
        """See `AttentionObserver`."""
        then, rows = self._packed.calls[call.layer], self._rows
        query, key, value = (x[:, :, rows] for x in (then.query, then.key, then.value))
        pairs = (call.query, query), (call.key, key), (call.value, value)
        for mine, theirs in pairs:
            self._compare("positions", _rows_first(mine), _rows_first(theirs))
        mask, tokens, window = call.mask, query.shape[2], call.kind.sight
        if mask is None:
            self._see(torch.ones(tokens, tokens, dtype=torch.bool), window)
        else:
            # Layers of a kind share one.
            if not any(mask is seen and window == its for seen, its in self._masks):
                self._masks.append((mask, window))
                self._see(mask[0, 0] > torch.finfo(mask.dtype).min / 2, window)
            mask = mask[..., -tokens:]
        numbers = query.float(), key.float(), value.float()
        attend = _own_attention(call.module)
        out, _ = attend(call.module, *numbers, mask, scaling=call.scale, **call.keywords)
        theirs = self._packed.attention(call.layer, self._piece)
        self._compare("attention", out[0].flatten(1), theirs.flatten(1))
        self.calls += 1
        self._unread.discard(call.layer)
        if self._unread:
            return theirs[None]
        raise _Attended

    def _see(self, visible: torch.Tensor, window: Window | None) -> None:
        """visible: bool [k, tokens before + k], where a row sees a token."""
        before = visible.shape[1] - len(visible)
        earlier = torch.ones_like(visible).tril(before)
        expected = earlier
        if window is not None:
            last = torch.from_numpy(window.last(before + np.arange(len(visible))))
            expected = earlier & (torch.arange(visible.shape[1]) > last[:, None] - window.tokens)
        self._note("later tokens", (visible & ~earlier).any(dim=1))
        self._note("beyond", (visible & earlier & ~expected).any(dim=1))
        self._note("earlier tokens", (expected & ~visible).any(dim=1))

    def _compare(self, what: str, mine: torch.Tensor, theirs: torch.Tensor) -> None:
        """mine, theirs: [k, numbers]."""
        self._note(what, _differ(mine, theirs))

    def _note(self, what: str, wrong: torch.Tensor) -> None:
        """wrong: bool [k], rows of the piece."""
        if bool(wrong.any()):
            position = self._past + int(wrong.nonzero()[0])
            self.found.append((position if self._known else 0, _ORDER.index(what)))


_WHAT = {
    "later tokens": "attention to later tokens",
    "earlier tokens": "attention that does not see all earlier tokens",
    "beyond": "attention to tokens beyond the window or chunk it names",
    "embeddings": "embeddings that depend on where a token stands in a batch",
    "positions": "positions other than those it is given, in its attention",
    "attention": "attention that differs from the softmax it asks for",
    "state": "inputs of recurrent layers that depend on where a token stands in a batch",
    "rows": "a token's place in its batch, whatever position it is given",
}
_ORDER = list(_WHAT)
"""Of what differs at a position, the first is told."""


def _refusal(kind: str, position: int, what: str) -> UnsupportedModelError:
    feature = _WHAT[what]
    wrong = f"models of type {kind!r} use {feature}; in packed batches they would be wrong"
    if position < FIRST_TOKENS:
        return UnsupportedModelError(feature, f"{wrong}. Use another model.")
    return UnsupportedModelError(
        feature,
        f"{wrong} from position {position} on. Before it makes no difference: use "
        f"--max-model-len {position} or less, or another model.",
    )


def _untried(kind: str, reason: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        "positions that cannot be tried",
        f"models of type {kind!r} cannot be tried at the positions a request may have, so nothing "
        f"shows that they are right in packed batches: {reason}. Use another model.",
    )


def _by_row(hidden: torch.Tensor) -> torch.Tensor:
    """Hidden states [..., k, hidden] as [k, numbers]; Gemma 3n has several for each row."""
    return hidden.movedim(-2, 0).flatten(1)


def _counted(module: Any) -> int:
    """The longest sequence its config knows; 0 if it names none."""
    limit = stated(module.config.get_text_config(), "max_position_embeddings")
    return limit if isinstance(limit, int) else 0


def _rows_first(heads: torch.Tensor) -> torch.Tensor:
    """Queries, keys or values [1, heads, k, dim] as [k, numbers]."""
    return heads[0].transpose(0, 1).flatten(1)


def _differ(mine: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Which rows of [k, numbers] do by more than rounding: bool [k]."""
    distance = (mine.float() - theirs.float()).norm(dim=1)
    # Negated so that NaN is no agreement.
    same: torch.Tensor = distance <= TOLERANCE[theirs.dtype] * theirs.float().norm(dim=1)
    return ~same


def _own_attention(module: nn.Module) -> Callable[..., Any]:
    """The function a module attends with if it is not given another."""
    for owner in type(module).__mro__:
        names = vars(sys.modules[owner.__module__])
        if "eager_attention_forward" in names:
            own: Callable[..., Any] = names["eager_attention_forward"]
            return own
    return sdpa_attention_forward
