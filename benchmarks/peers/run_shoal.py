"""Shoal behind the benchmark protocol."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from benchmarks.peers.protocol import Scores, TokenIds, serve


class ShoalEngine:
    """The Python API, with the options a user would give."""

    def __init__(self, **options: str) -> None:
        """`options`: others than the model's."""
        self._options = options

    def load(self, model: str, kv_gib: int, max_model_len: int) -> dict[str, str]:
        """See `protocol.Engine`."""
        from shoal import LLM

        self._llm = LLM(
            model,
            dtype="bfloat16",
            kv_memory=f"{kv_gib}GiB",
            max_model_len=max_model_len,
            **self._options,
        )
        return {name: version(name) for name in ("shoal", "torch", "transformers")}

    def prepare(
        self, prompts: list[list[int]], outputs: list[int], n: int, temperature: float
    ) -> Callable[[], Any]:
        """See `protocol.Engine`."""
        from shoal import SamplingParams

        params = {
            output: SamplingParams(max_tokens=output, n=n, temperature=temperature, ignore_eos=True)
            for output in set(outputs)
        }
        wanted = [params[output] for output in outputs]
        return lambda: self._llm.generate(prompts, wanted, use_tqdm=False)

    def prepare_scores(
        self, prompts: list[list[int]], starts: list[int], expert: bool
    ) -> Callable[[], Scores]:
        """See `protocol.Scorer`: through the harness, which is also the expert's way."""
        from shoal.integrations.lm_eval import ShoalLM

        model = ShoalLM(self._llm)
        pairs = zip(prompts, starts, strict=True)
        requests = [(None, prompt[:start], prompt[start:]) for prompt, start in pairs]
        return lambda: model._loglikelihood_tokens(requests, disable_tqdm=True)

    def token_ids(self, result: Any) -> TokenIds:
        """See `protocol.Engine`."""
        failed = next((c.error for c in result if c.error is not None), None)
        if failed is not None:
            raise failed
        return [[list(choice.token_ids) for choice in c.outputs] for c in result]


if __name__ == "__main__":
    serve(ShoalEngine())
