"""`LLM.embed`, `.classify`, `.score` and `.encode`: of models that do not generate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from shoal.errors import OptionError
from shoal.llm.drive import MakeOutput
from shoal.llm.llm_call import LLMCall
from shoal.llm.options import POOLING_CALL_OPTIONS, check
from shoal.llm.pooling_output import (
    ClassificationOutput,
    ClassificationRequestOutput,
    EmbeddingOutput,
    EmbeddingRequestOutput,
    PoolingOutput,
    PoolingRequestOutput,
    ScoringOutput,
    ScoringRequestOutput,
)
from shoal.model.description import ModelDescription
from shoal.model.pooling import Pooling, Task
from shoal.pooling import PairTexts, Scoring, check_params, finished
from shoal.prompts.python_prompts import CheckedPrompt, checked_prompt, prompts_of
from shoal.prompts.token_columns import TokenColumns
from shoal.types import (
    POOLED,
    Completion,
    Float32Array,
    Int32Array,
    PoolerConfig,
    PoolingParams,
    RequestParams,
)

Params = PoolingParams | Sequence[PoolingParams] | None

_NOTHING = np.zeros(0, dtype=np.float32)

T = TypeVar("T")


class PoolingCalls:
    """The calls of an `LLM` whose model does not generate (`runner="pooling"`)."""

    _description: ModelDescription
    _pooler: PoolerConfig

    if TYPE_CHECKING:

        def _call(self) -> AbstractContextManager[LLMCall]: ...

        def _numbers(self, count: int) -> int: ...

        def _read_and_run(
            self,
            call: LLMCall,
            name: str,
            prompts: Sequence[CheckedPrompt],
            params: Sequence[RequestParams],
            make: MakeOutput[Any],
            use_tqdm: Any,
            *,
            special_tokens: bool,
        ) -> list[Any]: ...

    def embed(
        self,
        prompts: Any,
        *,
        use_tqdm: Any = True,
        pooling_params: Params = None,
        **others: Any,
    ) -> list[EmbeddingRequestOutput]:
        """A vector for each prompt, all planned together.

        Args:
            prompts: as for `generate`.
            pooling_params: for all prompts or one for each; None: what the model's files say.
            others: what else vLLM takes, see docs/python.md.

        Returns:
            One output per prompt, in order; `outputs.embedding` is the vector. A prompt that is
            wrong has `error` set.

        Raises:
            OptionError: the model generates or classifies, or an argument is not honoured.
            InvalidRequestError: parameters do not fit the model.
            ModelFailedError, DeviceLostError, GenerationInterrupted: see `generate`.
        """
        self._pooling("embed", Task.embed)
        return self._vectors(prompts, EmbeddingOutput, pooling_params, use_tqdm, others, "embed")

    def classify(
        self,
        prompts: Any,
        *,
        pooling_params: Params = None,
        use_tqdm: Any = True,
        **others: Any,
    ) -> list[ClassificationRequestOutput]:
        """Probabilities of classes for each prompt; see `embed`.

        Returns:
            One output per prompt; `outputs.probs` has one number per class, in the order of the
            model's `id2label`.
        """
        self._pooling("classify", Task.classify)
        make = ClassificationOutput
        return self._vectors(prompts, make, pooling_params, use_tqdm, others, "classify")

    def encode(
        self,
        prompts: Any,
        pooling_params: Params = None,
        *,
        use_tqdm: Any = True,
        pooling_task: str | None = None,
        **others: Any,
    ) -> list[PoolingRequestOutput[PoolingOutput]]:
        """What `embed` or `classify` gives, by the name of the task; `outputs.data` is an array."""
        if pooling_task not in (Task.embed, Task.classify):
            raise OptionError(f"pooling_task must be embed or classify, not {pooling_task!r}.")
        self._pooling("encode", Task(pooling_task))
        return self._vectors(prompts, PoolingOutput, pooling_params, use_tqdm, others, "encode")

    def score(
        self,
        data_1: str | Sequence[str],
        data_2: str | Sequence[str],
        /,
        *,
        use_tqdm: Any = True,
        pooling_params: PoolingParams | None = None,
        chat_template: str | None = None,
        **others: Any,
    ) -> list[ScoringRequestOutput]:
        """How well pairs of texts go together, such as a query and its documents.

        A model with a classification head, or a reranker that says yes or no, reads each pair.
        Embeddings are compared by their cosine.

        Args:
            data_1: queries: one for all of `data_2`, or one for each.
            data_2: documents.
            chat_template: how a pair is written, with the roles `query` and `document`.

        Returns:
            One output per text of `data_2`; `outputs.score` is its score.

        Raises:
            OptionError: the model generates, or there are neither as many queries nor one.
            InvalidRequestError: the model tells several classes apart.
        """
        check(others, POOLING_CALL_OPTIONS, "score")
        pooling = self._pooling("score", None)
        params = self._params(pooling_params, 1)[0]
        check_params(params, pooling, "pooling_params.")
        scoring = Scoring(pooling, PairTexts(self._description.tokenizer, pooling, chat_template))
        scoring.check("score")
        first, second = _texts(data_1, "data_1"), _texts(data_2, "data_2")
        with self._call() as call:
            try:
                prompts = scoring.prompts(first, second, {}, "data_2")
            except ValueError as error:
                counts = f"{len(first)} of data_1, {len(second)} of data_2"
                raise OptionError(f"{counts}: {error}.") from None
            read = self._read_and_run(
                call,
                "prompts",
                [checked_prompt(prompt, f"prompts[{i}]") for i, prompt in enumerate(prompts)],
                [POOLED],
                self._maker(PoolingOutput, [None]),
                use_tqdm,
                special_tokens=scoring.special_tokens,
            )
        return _scored(read, scoring, len(first), len(second), params)

    def _vectors(
        self,
        prompts: Any,
        kind: Any,
        given: Params,
        use_tqdm: Any,
        others: Mapping[str, Any],
        method: str,
    ) -> list[Any]:
        check(others, POOLING_CALL_OPTIONS, method)
        with self._call() as call:
            values = prompts_of(prompts)
            if isinstance(values, TokenColumns):
                values = np.split(values.tokens, values.offsets[1:-1])
            params = self._params(given, len(values))
            checked = [checked_prompt(value, f"prompts[{i}]") for i, value in enumerate(values)]
            make = self._maker(kind, params)
            return self._read_and_run(
                call, "prompts", checked, [POOLED], make, use_tqdm, special_tokens=True
            )

    def _maker(self, kind: Any, params: Sequence[PoolingParams | None]) -> MakeOutput[Any]:
        """Makes outputs of a kind; None in `params`: of the numbers as the model gives them."""
        pooling, first = self._description.pooling, self._numbers(max(len(params), 1))
        assert pooling is not None

        def make(
            index: int, tokens: Int32Array | None, completion: Completion
        ) -> PoolingRequestOutput[Any]:
            wanted = params[index if len(params) > 1 else 0]
            vector = _NOTHING if completion.vector is None else completion.vector
            if wanted is not None and completion.vector is not None:
                vector = finished(vector, pooling, wanted)
            read = () if tokens is None else (tokens,)
            return PoolingRequestOutput(
                str(first + index), kind(vector), read, error=completion.error
            )

        return make

    def _pooling(self, method: str, task: Task | None) -> Pooling:
        pooling = self._description.pooling
        if pooling is None:
            raise OptionError(
                f"LLM.{method} is for models that do not generate: make the LLM with "
                'runner="pooling".'
            )
        if task is not None and pooling.task is not task:
            found = {Task.embed: "gives embeddings", Task.classify: "gives classes or scores"}
            raise OptionError(
                f"LLM.{method}: this model {found[pooling.task]}; use LLM.{pooling.task} or "
                "LLM.score, or another model."
            )
        return pooling

    def _params(self, given: Params, count: int) -> list[PoolingParams]:
        """One for all prompts, or one for each, with what `pooler_config` says."""
        pooling = self._description.pooling
        assert pooling is not None
        several = given is not None and not isinstance(given, PoolingParams)
        each = list(given) if several else [given]  # type: ignore[arg-type]
        if several and len(each) != count:
            raise OptionError(f"{len(each)} pooling_params for {count} prompts")
        found = []
        for index, params in enumerate(each):
            if not isinstance(params, PoolingParams | None):
                raise OptionError(f"pooling_params must be PoolingParams, not {params!r:.80}.")
            dimensions = params.dimensions if params else None
            params = PoolingParams(
                params.use_activation if params else None,
                self._pooler.dimensions if dimensions is None else dimensions,
            )
            check_params(params, pooling, f"pooling_params[{index}].")
            found.append(params)
        return found


def _texts(given: Any, name: str) -> list[str]:
    texts = [given] if isinstance(given, str) else list(given)
    for text in texts:
        if not isinstance(text, str):
            raise OptionError(f"{name} must be a text or a list of texts, not {text!r:.80}.")
    return texts


def _scored(
    read: Sequence[PoolingRequestOutput[PoolingOutput]],
    scoring: Scoring,
    num_first: int,
    count: int,
    params: PoolingParams,
) -> list[ScoringRequestOutput]:
    """The outputs of pairs from those of their prompts."""
    outputs = []
    for pair in range(count):
        parts = [read[part] for part in scoring.parts(pair, num_first)]
        error = next((part.error for part in parts if part.error is not None), None)
        vectors: list[Float32Array] = [part.outputs.data for part in parts]
        score = 0.0 if error is not None else scoring.scores(vectors, 1, params)[0]
        tokens = tuple(tokens for part in parts for tokens in part.prompt_tokens)
        name = "_".join(part.request_id for part in parts)
        outputs.append(PoolingRequestOutput(name, ScoringOutput(score), tokens, error=error))
    return outputs
