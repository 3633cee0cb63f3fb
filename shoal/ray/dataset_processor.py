"""Data set in, data set out: the manner of `ray.data.llm.build_processor`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shoal.arrow import require_pyarrow
from shoal.ray.processor_config import ProcessorConfig
from shoal.ray.require_ray import require_ray_data

RowFunction = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class DatasetProcessor:
    """Call it with a data set.

    Attributes:
        config: of model and actors.
        preprocess: makes columns of a row, which stand beside its own.
        postprocess: makes the row that is left of one with its answer; None: all of it.
    """

    config: ProcessorConfig
    preprocess: RowFunction | None = None
    postprocess: RowFunction | None = None

    def __call__(self, dataset: Any) -> Any:
        """The ray.data.Dataset with columns `generated_text`, `num_input_tokens`,
        `num_generated_tokens`, `finish_reason`, `error` and `error_code`; and `parsed`, where all
        answers are JSON. Lazy, as all of Ray Data.

        A row that is wrong, or that the model failed on, stays: `error` says why.

        Raises:
            OptionError: Ray Data is not installed.
        """
        data, config = require_ray_data(), self.config
        require_pyarrow("shoal.ray needs")
        if self.preprocess is not None:
            dataset = dataset.map(_Beside(self.preprocess))
        dataset = dataset.map_batches(
            _prompt_actor(),
            fn_constructor_args=(config,),
            batch_size=config.rows_per_plan,
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=actor_pool(data, config.concurrency),
            num_cpus=config.num_cpus,
            num_gpus=config.num_gpus or None,
        )
        return dataset if self.postprocess is None else dataset.map(self.postprocess)


def processor(
    config: ProcessorConfig,
    preprocess: RowFunction | None = None,
    postprocess: RowFunction | None = None,
) -> DatasetProcessor:
    """What makes a data set of prompts one with answers; see `DatasetProcessor`."""
    return DatasetProcessor(config, preprocess, postprocess)


def actor_pool(data: Any, concurrency: int | tuple[int, int]) -> Any:
    """Ray Data's pool of so many actors; each is given one call at a time."""
    least, most = concurrency if isinstance(concurrency, tuple) else (concurrency, concurrency)
    return data.ActorPoolStrategy(min_size=least, max_size=most)


class _Beside:
    """A row, and beside it what a function makes of it."""

    def __init__(self, function: RowFunction) -> None:
        self._function = function
        self.__name__ = getattr(function, "__name__", "preprocess")

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {**row, **self._function(row)}


def _prompt_actor() -> Any:
    from shoal.ray.prompt_actor import PromptActor  # loads torch

    return PromptActor
