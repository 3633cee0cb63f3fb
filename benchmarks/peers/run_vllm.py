"""vLLM's CPU build behind the benchmark protocol, with the settings that suit it best."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from benchmarks.peers.protocol import TokenIds, serve


class VllmEngine:
    """`vllm.LLM` in one process, compiled, with prefix caching."""

    def load(self, model: str, kv_gib: int, max_model_len: int) -> dict[str, str]:
        """See `protocol.Engine`."""
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(kv_gib)
        os.environ["VLLM_NO_USAGE_STATS"] = "1"
        from vllm import LLM

        self._llm = LLM(
            model,
            skip_tokenizer_init=True,
            dtype="bfloat16",
            enable_prefix_caching=True,
            max_num_seqs=256,
            max_num_batched_tokens=2048,
            max_model_len=max_model_len,
        )
        return {name: version(name) for name in ("vllm-cpu", "torch", "transformers")}

    def prepare(
        self, prompts: list[list[int]], outputs: list[int], n: int, temperature: float
    ) -> Callable[[], Any]:
        """See `protocol.Engine`; what earlier runs left in the prefix cache is dropped."""
        from vllm import SamplingParams

        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not empty its prefix cache")
        inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
        params = [
            SamplingParams(
                n=n, temperature=temperature, max_tokens=output, ignore_eos=True, detokenize=False
            )
            for output in outputs
        ]
        return lambda: self._llm.generate(inputs, params, use_tqdm=False)

    def token_ids(self, result: Any) -> TokenIds:
        """See `protocol.Engine`."""
        return [[list(choice.token_ids) for choice in answer.outputs] for answer in result]


if __name__ == "__main__":
    serve(VllmEngine())
