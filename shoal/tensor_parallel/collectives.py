"""Keeps processes in step when a forward fails in one of them.

In a forward every process takes part in the same sums and gathers, in the same order. One that
raises in the middle (out of memory, say) would leave the others waiting for ever. So it takes its
part in those that are left with zeros: the modules that exchange something are called in their
order, on inputs of the right shape. What the others compute from that is worthless. It is thrown
away, since rank 0 learns from each rank how its forward went.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from shoal.errors import InternalError

Result = TypeVar("Result")

_SILENT_STYLES = {
    "colwise",
    "packed_colwise",
    "replicate",
    "replicated_with_grad_allreduce",
    "local_params",
    "mla_kv_a_proj",
    "moe_identity_expert",
}
"""Styles of transformers' plans that exchange nothing in inference. A style we do not know is taken
to exchange something: calling its module once too often costs time only."""

Sizes = tuple[int, int]
"""T rows, R rows whose logits are wanted."""

_PROBES: tuple[Sizes, Sizes] = ((5, 2), (7, 3))
"""Two batches that differ in both sizes: what differs in an input is T or R, and which."""


@dataclass(frozen=True)
class Zeros:
    """A tensor as a function of the batch: shape (constant, per T, per R) of each dimension."""

    shape: tuple[tuple[int, int, int], ...]
    dtype: torch.dtype
    device: torch.device

    def make(self, sizes: Sizes) -> torch.Tensor:
        """The tensor for a batch, all zeros."""
        tokens, rows = sizes
        shape = [fixed + per_t * tokens + per_r * rows for fixed, per_t, per_r in self.shape]
        return torch.zeros(shape, dtype=self.dtype, device=self.device)


@dataclass(frozen=True)
class ModuleCall:
    """A call of a module that exchanges something; tensors among its arguments as `Zeros`."""

    module: torch.nn.Module
    args: tuple[Any, ...]
    keywords: dict[str, Any]

    def repeat(self, sizes: Sizes) -> None:
        """Call it on zeros."""
        self.module(
            *(_made(value, sizes) for value in self.args),
            **{name: _made(value, sizes) for name, value in self.keywords.items()},
        )


class OutOfStepError(Exception):
    """The other processes cannot be reached any more; the message is the exchange's."""


class CollectiveCalls:
    """The calls of a model's forward that exchange something, in their order.

    Every process builds it at the same time, since building it runs the model twice.
    """

    def __init__(self, module: torch.nn.Module, forward: Callable[[int, int], object]) -> None:
        """`forward(T, R)` runs the model on any batch of these sizes."""
        self._done = 0
        exchanging = exchanging_modules(module)
        first, second = (self._recorded(exchanging, forward, *sizes) for sizes in _PROBES)
        if [module for module, _, _ in first] != [module for module, _, _ in second]:
            raise InternalError("the order of a model's modules depends on the batch")
        self.calls = [
            ModuleCall(module, _merged(a, b), _merged(c, d))
            for (module, a, c), (_, b, d) in zip(first, second, strict=True)
        ]
        for each in exchanging:
            each.register_forward_hook(self._count)

    def run(self, tokens: int, rows: int, forward: Callable[[], Result]) -> Result:
        """What `forward` of a batch of these sizes returns.

        If it raises, its part in the exchanges that are left is taken with zeros, and then its
        exception is raised on.

        Raises:
            OutOfStepError: it raised, and so did those exchanges.
        """
        self._done = 0
        try:
            return forward()
        except Exception as error:
            # The tensors of the failed forward hang on its frames; their memory is needed now.
            traceback.clear_frames(error.__traceback__)
            try:
                with torch.inference_mode():
                    for call in self.calls[self._done :]:
                        call.repeat((tokens, rows))
            except Exception as gone:
                raise OutOfStepError(f"{type(gone).__name__}: {gone}") from error
            raise

    def _count(self, *call: object) -> None:
        self._done += 1

    def _recorded(
        self,
        exchanging: list[torch.nn.Module],
        forward: Callable[[int, int], object],
        tokens: int,
        rows: int,
    ) -> list[tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any]]]:
        calls: list[tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any]]] = []

        def record(module: torch.nn.Module, args: Any, keywords: Any) -> None:
            calls.append((module, args, keywords))

        handles = [m.register_forward_pre_hook(record, with_kwargs=True) for m in exchanging]
        try:
            forward(tokens, rows)
        finally:
            for handle in handles:
                handle.remove()
        return calls


def exchanging_modules(module: torch.nn.Module) -> list[torch.nn.Module]:
    """The modules that take part in an exchange, by the plan transformers split the model by."""
    plan: dict[str, str] = getattr(module, "tp_plan", None) or {}

    def style(name: str) -> str | None:
        return plan.get(name, plan.get(re.sub(r"\.\d+(?=\.|$)", ".*", name)))

    styles = ((each, style(name)) for name, each in module.named_modules())
    return [each for each, found in styles if found is not None and found not in _SILENT_STYLES]


def _merged(first: Any, second: Any) -> Any:
    """Arguments of one call in both probes, with tensors as functions of the sizes."""
    if isinstance(first, torch.Tensor):
        pairs = zip(first.shape, second.shape, strict=True)
        return Zeros(tuple(_dimension(a, b) for a, b in pairs), first.dtype, first.device)
    if isinstance(first, (tuple, list)):
        return type(first)(_merged(a, b) for a, b in zip(first, second, strict=True))
    if isinstance(first, dict):
        return {name: _merged(value, second[name]) for name, value in first.items()}
    return first


def _dimension(first: int, second: int) -> tuple[int, int, int]:
    """(constant, per T, per R) of a dimension that was `first` and `second` in the probes."""
    (tokens, rows), (more_tokens, more_rows) = _PROBES
    if first == second:
        return first, 0, 0
    if first * more_tokens == second * tokens and first % tokens == 0:
        return 0, first // tokens, 0
    if first * more_rows == second * rows and first % rows == 0:
        return 0, 0, first // rows
    raise InternalError(f"a module's input has {first} and {second} rows in probes of {_PROBES}")


def _made(value: Any, sizes: Sizes) -> Any:
    if isinstance(value, Zeros):
        return value.make(sizes)
    if isinstance(value, (tuple, list)):
        return type(value)(_made(each, sizes) for each in value)
    if isinstance(value, dict):
        return {name: _made(each, sizes) for name, each in value.items()}
    return value
