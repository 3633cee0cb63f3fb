"""Shoal as a reranker behind the benchmark protocol: the score of each prompt, by its head."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

from benchmarks.peers.protocol import Scores, serve


class ShoalPooling:
    """`LLM(runner="pooling")`, with the options a user would give."""

    def load(self, model: str, kv_gib: int, max_model_len: int) -> dict[str, str]:
        """See `protocol.Engine`."""
        from shoal import LLM

        self._llm = LLM(
            model,
            runner="pooling",
            dtype="bfloat16",
            kv_memory=f"{kv_gib}GiB",
            max_model_len=max_model_len,
        )
        return {name: version(name) for name in ("shoal", "torch", "transformers")}

    def prepare_scores(
        self, prompts: list[list[int]], starts: list[int], expert: bool
    ) -> Callable[[], Scores]:
        """See `protocol.Scorer`; `starts` and `expert` mean nothing here."""

        def run() -> Scores:
            found = self._llm.classify(prompts, use_tqdm=False)
            return [(answer.outputs.probs[0], True) for answer in found]

        return run


if __name__ == "__main__":
    serve(ShoalPooling())
