"""A process whose forward fails takes part in every exchange all the same."""

from __future__ import annotations

import pytest
import torch

from shoal.tensor_parallel.collectives import (
    CollectiveCalls,
    OutOfStepError,
    exchanging_modules,
)

WIDTH = 4
Log = list[tuple[str, tuple[int, ...]]]


class Exchanging(torch.nn.Module):
    """Stands in for a module that sums over the processes: notes its name and input's shape."""

    def __init__(self, name: str, log: Log, broken: list[str]) -> None:
        super().__init__()
        self.name, self.log, self.broken = name, log, broken

    def forward(self, x: torch.Tensor, *, scale: torch.Tensor | None = None) -> torch.Tensor:
        if self.name in self.broken:
            raise ConnectionError("closed by peer")
        self.log.append((self.name, tuple(x.shape)))
        return x if scale is None else x * scale


class Inner(torch.nn.Module):
    """A part of a layer that exchanges nothing, and can fail."""

    def __init__(self) -> None:
        super().__init__()
        self.fails = False
        self.kept: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.fails:
            large = torch.zeros(8)
            raise torch.OutOfMemoryError(f"no memory for {large.numel()}")
        return x


class Layer(torch.nn.Module):
    def __init__(self, number: int, log: Log, broken: list[str]) -> None:
        super().__init__()
        self.inner = Inner()
        self.out = Exchanging(f"out {number}", log, broken)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.inner(x), scale=torch.ones(x.shape[1], 1))


class Model(torch.nn.Module):
    tp_plan = {  # noqa: RUF012  as transformers has it
        "embed": "embedding_rowwise",
        "layers.*.inner": "colwise",
        "layers.*.out": "rowwise",
        "head": "a style of a later version",
        "layers.*.missing": "rowwise",
    }

    def __init__(self) -> None:
        super().__init__()
        self.log: Log = []
        self.broken: list[str] = []
        self.embed = Exchanging("embed", self.log, self.broken)
        self.layers = torch.nn.ModuleList(Layer(i, self.log, self.broken) for i in range(3))
        self.head = Exchanging("head", self.log, self.broken)

    def forward(self, tokens: int, rows: int) -> torch.Tensor:
        x = self.embed(torch.zeros(1, tokens, WIDTH))
        for layer in self.layers:
            x = layer(x)
        return self.head(x[:, :rows])


def expected(tokens: int, rows: int) -> Log:
    wide = [(name, (1, tokens, WIDTH)) for name in ("embed", "out 0", "out 1", "out 2")]
    return [*wide, ("head", (1, rows, WIDTH))]


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def calls(model: Model) -> CollectiveCalls:
    calls = CollectiveCalls(model, model)
    model.log.clear()
    return calls


def test_only_modules_that_exchange_are_called_again(model: Model) -> None:
    names = [module.name for module in exchanging_modules(model)]
    assert names == ["embed", "out 0", "out 1", "out 2", "head"]


def test_a_forward_that_succeeds_is_left_alone(model: Model, calls: CollectiveCalls) -> None:
    out = calls.run(11, 4, lambda: model(11, 4))
    assert out.shape == (1, 4, WIDTH)
    assert model.log == expected(11, 4)


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize(("tokens", "rows"), [(1, 1), (5, 2), (2, 5), (100, 0)])
def test_a_forward_that_fails_takes_its_part_in_what_is_left(
    model: Model, calls: CollectiveCalls, layer: int, tokens: int, rows: int
) -> None:
    calls.run(3, 1, lambda: model(3, 1))  # An earlier batch leaves nothing behind.
    model.log.clear()
    model.layers[layer].inner.fails = True
    with pytest.raises(torch.OutOfMemoryError, match="no memory for 8"):
        calls.run(tokens, rows, lambda: model(tokens, rows))
    assert model.log == expected(tokens, rows)


def test_a_forward_that_fails_at_once_takes_all_of_its_part(
    model: Model, calls: CollectiveCalls
) -> None:
    def fails() -> None:
        raise RuntimeError("no work list")

    with pytest.raises(RuntimeError, match="no work list"):
        calls.run(6, 2, fails)
    assert model.log == expected(6, 2)


def test_its_tensors_are_gone_before_that(model: Model, calls: CollectiveCalls) -> None:
    model.layers[1].inner.fails = True
    with pytest.raises(torch.OutOfMemoryError) as raised:
        calls.run(6, 2, lambda: model(6, 2))
    frame = raised.value.__traceback__
    while frame is not None and "large" not in frame.tb_frame.f_code.co_varnames:
        frame = frame.tb_next
    assert frame is not None
    assert "large" not in frame.tb_frame.f_locals


def test_others_that_are_gone_are_told_from_a_failure(model: Model, calls: CollectiveCalls) -> None:
    model.broken.append("out 1")
    with pytest.raises(OutOfStepError, match="closed by peer"):
        calls.run(6, 2, lambda: model(6, 2))
