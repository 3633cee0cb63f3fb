"""A model is replayed only after it was seen to be the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from shoal.cuda.capture import Recorder
from shoal.cuda.graphs import GraphedForward, scratch_blocks
from shoal.machine.graph_trial import graphed_forward
from shoal.model.load import LoadedModel
from shoal.scheduler import BLOCK_SIZE
from tests.helpers.cuda_models import pool, tiny
from tests.helpers.cuda_standins import FixedReference, FixedReferenceWork, TapeRecorder

SIZES = (1, 2, 4, 8, 16)
BLOCKS = 2


def build(
    recorder: Recorder, architecture: str = "llama", **keywords: object
) -> GraphedForward | None:
    model, description = tiny(architecture, **keywords)
    kv = pool(model, FixedReference(), BLOCKS + scratch_blocks(SIZES, BLOCK_SIZE))
    return graphed_forward(model, kv, description, recorder, FixedReferenceWork, BLOCKS, SIZES)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gpt2"])
def test_a_model_that_replays_the_same_is_taken(
    architecture: str, caplog: pytest.LogCaptureFixture
) -> None:
    graphs = build(TapeRecorder(), architecture)
    assert graphs is not None
    assert graphs.captured == (2, 16)  # one bucket for each set of attention buffers
    assert caplog.text == ""


def test_experts_that_are_looped_over_are_never_captured(caplog: pytest.LogCaptureFixture) -> None:
    recorder = TapeRecorder()
    assert build(recorder, "mixtral", experts_implementation="eager") is None
    assert recorder.records == 0
    assert "without CUDA graphs" in caplog.text
    assert "reads back" in caplog.text
    assert "nonzero" in caplog.text


def test_experts_that_are_grouped_are_captured() -> None:
    assert build(TapeRecorder(), "mixtral", experts_implementation="grouped_mm") is not None


def test_a_capture_that_fails_ends_in_eager_forwards(caplog: pytest.LogCaptureFixture) -> None:
    assert build(TapeRecorder(fail_from=0)) is None
    assert "a batch of 9 rows was not captured" in caplog.text


class StaleRecorder(TapeRecorder):
    """Replays nothing: whatever it wrote the first time stays."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        super().record(work)
        return lambda: None


class ForgetfulRecorder(TapeRecorder):
    """Replays all but the first operation that writes into a buffer: keys of the first layer."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        replay = super().record(work)
        tape = replay.__self__  # type: ignore[attr-defined]
        places = [i for i, entry in enumerate(tape.entries) if "index_copy_" in name_of(entry)]
        del tape.entries[places[0]]
        return replay


def name_of(entry: Callable[[], None]) -> str:
    cells = entry.__closure__ or ()
    return " ".join(str(cell.cell_contents) for cell in cells if callable(cell.cell_contents))


@pytest.mark.parametrize("recorder", [StaleRecorder(), ForgetfulRecorder()])
def test_other_logits_end_in_eager_forwards(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    assert build(recorder) is None
    assert "replayed logits differ from eager ones" in caplog.text


def test_an_error_of_the_forward_ends_in_eager_forwards(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("4 MiB asked for")

    monkeypatch.setattr(LoadedModel, "logits", fail)
    assert build(TapeRecorder()) is None
    assert "4 MiB asked for" in caplog.text
