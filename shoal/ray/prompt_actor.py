"""What runs in an actor of Ray Data: one LLM, which answers a block of rows in one call."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from shoal.errors import InvalidRequestError
from shoal.llm.llm import LLM
from shoal.llm.request_output import RequestOutput
from shoal.llm.sampling_params import SamplingParams
from shoal.ray.answer_columns import Answer, AnswerColumns
from shoal.ray.processor_config import ProcessorConfig
from shoal.ray.prompt_values import prompt_column, prompt_values
from shoal.ray.row_params import COLUMN, row_params

_INDEX = re.compile(r"^sampling_params\[(\d+)\]")


class PromptActor:
    """Answers tables of rows; Ray Data makes one per actor.

    Raises:
        OptionError, ModelError: the model cannot be loaded.
    """

    def __init__(self, config: ProcessorConfig) -> None:
        self._config = config
        self._llm = LLM(config.model, **config.engine_kwargs)
        self._columns = AnswerColumns(config.schema)

    def __call__(self, table: Any) -> Any:
        """The pyarrow table with answers beside its rows, all planned together.

        Raises:
            OptionError: there is no column of prompts, or a name of ours is taken.
            ModelError: the model failed on everything.
        """
        prompts = prompt_values(prompt_column(table, self._config.column), chat=self._config.chat)
        answers: list[Answer | None] = [
            prompt if isinstance(prompt, InvalidRequestError) else None for prompt in prompts
        ]
        params = self._params(table)
        for row, asked in enumerate(params):
            if answers[row] is None and isinstance(asked, InvalidRequestError):
                answers[row] = asked
        self._run(prompts, params, answers)
        return self._columns.joined(table, [a for a in answers if a is not None])

    def _params(self, table: Any) -> list[SamplingParams | InvalidRequestError]:
        common = self._config.sampling_params
        if common is None:
            common = vars(self._llm.get_default_sampling_params())
        given = [None] * len(table)
        if COLUMN in table.column_names:
            given = table.column(COLUMN).to_pylist()
        return row_params(given, common)

    def _run(self, prompts: Sequence[Any], params: Sequence[Any], answers: list[Any]) -> None:
        """Answer the rows that have no answer; parameters the model refuses fail their rows."""
        rows = [row for row, answer in enumerate(answers) if answer is None]
        while rows:
            try:
                outputs = self._call([prompts[row] for row in rows], [params[row] for row in rows])
            except InvalidRequestError as error:
                named = _INDEX.match(error.param or "")
                if named is None:
                    raise
                wrong = params[rows[int(named[1])]]
                for row in rows:
                    if params[row] is wrong:
                        answers[row] = error
                rows = [row for row in rows if params[row] is not wrong]
            else:
                for row, output in zip(rows, outputs, strict=True):
                    answers[row] = output
                return

    def _call(self, prompts: list[Any], params: list[SamplingParams]) -> list[RequestOutput]:
        if not self._config.chat:
            return self._llm.generate(prompts, params, use_tqdm=False)
        kwargs = dict(self._config.chat_template_kwargs)
        return self._llm.chat(prompts, params, use_tqdm=False, chat_template_kwargs=kwargs)
